"""`surrogate compare` as a user drives it, on the toy app: fair, resumable, and its tables say what was run."""

from __future__ import annotations

import csv
import json
import statistics
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from surrogate.compare import _agreement, _best, _on_val
from surrogate.finetune import Selection
from surrogate.table import to_latex, to_markdown

# fmt: off
TOY = [
    "--app", "toy", "--device", "cpu", "--set", "data.train=512", "--set", "data.test=64",
    "--set", "fit.epochs=30", "--epochs", "2",
]
# fmt: on


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    from surrogate_cli.exits import exit_code
    from surrogate_cli.main import cli

    run = tmp_path_factory.mktemp("compare") / "cmp"
    asked = ["compare", "--run", str(run), *TOY, "--losses", "mse,surrogate", "--seeds", "2", "--lrs", "0.01,0.02"]
    assert exit_code(cli, [*asked, "--quiet"]) == 0
    return run


def test_a_row_for_each_loss_with_every_run(compared):
    result = json.loads((compared / "compare.json").read_text())
    assert [row["loss"] for row in result["rows"]] == ["before", "mse", "surrogate"]
    assert result["seeds"] == 2
    for row in result["rows"]:
        values = [run["test"]["f"] for run in row["runs"]]
        assert [run["seed"] for run in row["runs"]] == [0, 1]
        assert row["mean"]["f"] == pytest.approx(statistics.fmean(values))
        assert row["sd"]["f"] == pytest.approx(statistics.stdev(values))


def test_a_row_is_what_finetune_alone_gives(compared, tmp_path, surrogate_cli):
    """Same start, order and budget: bit for bit the same network."""
    result = json.loads((compared / "compare.json").read_text())
    lr = next(row["lr"] for row in result["rows"] if row["loss"] == "mse")
    start = compared / "seed-0" / "base" / "model" / "model.safetensors"
    alone = ["--weights", start, "--loss", "mse", "--ce-mix", 1.0, "--lr", lr]
    surrogate_cli("finetune", "--run", tmp_path / "alone", *TOY, *alone)
    one = load_file(tmp_path / "alone" / "finetune-mse" / "model.safetensors")
    other = load_file(compared / "seed-0" / "mse" / f"lr-{lr:g}" / "finetune-mse" / "model.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_rate_is_the_best_on_val_in_the_first_seed(compared):
    for row in json.loads((compared / "compare.json").read_text())["rows"][1:]:
        found = {}
        for lr in (0.01, 0.02):
            folder = compared / "seed-0" / row["loss"] / f"lr-{lr:g}" / f"finetune-{row['loss']}"
            found[lr] = json.loads((folder / "result.json").read_text())["after"]["val"]["f"]
        assert found[row["lr"]] == min(found.values())  # less is better
        assert not (compared / "seed-1" / row["loss"] / f"lr-{0.03 - row['lr']:g}").exists()


def test_again_runs_nothing_and_says_the_same(compared, surrogate_cli):
    before = (compared / "compare.json").read_bytes()
    stamps = {path: path.stat().st_mtime_ns for path in compared.rglob("model.safetensors")}
    asked = ("--losses", "mse,surrogate", "--seeds", 2, "--lrs", "0.01,0.02")
    shown = surrogate_cli("compare", "--run", compared, *TOY, *asked, "--json").json
    assert shown["rows"] == json.loads(before)["rows"]
    assert (compared / "compare.json").read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in compared.rglob("model.safetensors")} == stamps


def test_the_tables_say_the_same_numbers(compared):
    result = json.loads((compared / "compare.json").read_text())
    rows = list(csv.DictReader((compared / "table.csv").read_text().splitlines()))
    means = {row["loss"]: float(row["f"]) for row in rows if row["seed"] == "mean"}
    assert means == {row["loss"]: pytest.approx(row["mean"]["f"]) for row in result["rows"]}
    assert "| surrogate |" in (compared / "table.md").read_text()
    assert (compared / "table.tex").read_text().count(r"\\") == 4
    assert (compared / "curves.png").stat().st_size > 5000


def test_no_figure_takes_the_place_of_another(surrogate_cli, tmp_path):
    """In the app whose own figures are curves too."""
    sets = ("train.epochs=1", "finetune.epochs=1", "data.keep=1.0")
    options = [option for entry in sets for option in ("--set", entry)]
    shown = surrogate_cli(
        "compare", "--app", "tabular", "--run", tmp_path, *options, "--losses", "bce,focal", "--lrs", "0.01", "--json"
    )
    assert shown.code == 0, shown.err
    names = [Path(figure).name for figure in shown.json["figures"]]
    assert sorted(names) == ["curves.png", "roc.png"]


def test_a_reader_gets_a_line_for_each_loss(compared, surrogate_cli):
    result = json.loads((compared / "compare.json").read_text())
    asked = ("--losses", "mse,surrogate", "--seeds", 2, "--lrs", "0.01,0.02")
    shown = surrogate_cli("compare", "--run", compared, *TOY, *asked).out
    assert "{" not in shown
    for row in result["rows"]:
        (line,) = (line for line in shown.splitlines() if line.startswith(f"{row['loss']} "))
        assert f"{row['mean']['f']:.3g} ± {row['sd']['f']:.3g}" in line
    for name in ("table.md", "table.csv", "table.tex", "curves.png"):
        assert str(compared / name) in shown


def test_without_losses_it_is_the_apps_usual_one_and_the_learned_one(tmp_path, surrogate_cli):
    ended = surrogate_cli("compare", "--run", tmp_path, *TOY, "--seeds", 1, "--json")
    assert ended.code == 0, ended.err
    assert [row["loss"] for row in ended.json["rows"]] == ["before", "mse", "surrogate"]


@pytest.mark.parametrize("mean", ["surrogate+mse", "mse+surrogate"])
def test_one_surrogate_is_fitted_for_a_loss_and_its_means(mean, tmp_path, surrogate_cli):
    asked = ("--losses", f"surrogate,{mean}", "--seeds", 1, "--lrs", "0.01")
    ended = surrogate_cli("compare", "--run", tmp_path, *TOY, *asked, "--json")
    assert ended.code == 0, ended.err
    _, alone, beside = ended.json["rows"]
    assert beside["runs"][0]["fidelity"] == alone["runs"][0]["fidelity"]
    assert [path.parent.name for path in (tmp_path / "seed-0").glob("*/fit")] == ["surrogate"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("--losses", "mse", "--seed", 5), "seed is set to 5; a comparison takes seeds 0 to N - 1"),
        (("--losses", "mse", "--set", "finetune.surrogate=a.safetensors"), "takes surrogates of its own"),
        (("--losses", ""), "no losses"),
    ],
)
def test_what_a_comparison_settles_itself_is_not_passed_over(asked, message, tmp_path, surrogate_cli):
    ended = surrogate_cli("compare", "--run", tmp_path / "cmp", *TOY, *asked)
    assert ended.code == 2
    assert message in ended.err
    assert not (tmp_path / "cmp").exists()


def test_a_run_is_no_place_for_a_comparison(compared, surrogate_cli):
    ended = surrogate_cli("compare", "--run", compared / "seed-0" / "base", *TOY, "--losses", "mse")
    assert ended.code == 2
    assert "holds a run, not a comparison" in ended.err


def test_an_unknown_loss_is_told_before_anything_runs(tmp_path, surrogate_cli):
    ended = surrogate_cli("compare", "--run", tmp_path / "cmp", *TOY, "--losses", "mse,surogate")
    assert ended.code == 2
    assert "did you mean 'surrogate'?" in ended.err
    assert not (tmp_path / "cmp").exists()


@pytest.mark.parametrize(
    ("losses", "message"),
    [("surrogate+mes", "did you mean 'mse'?"), ("mse+mse", "mse is in it twice")],
)
def test_a_mean_of_losses_is_of_the_apps_own(losses, message, tmp_path, surrogate_cli):
    ended = surrogate_cli("compare", "--run", tmp_path / "cmp", *TOY, "--losses", losses)
    assert ended.code == 2
    assert message in ended.err
    assert not (tmp_path / "cmp").exists()


def test_a_mean_of_losses_is_a_row_of_its_own(compared, surrogate_cli):
    run = compared.parent / "mean"
    asked = ("--losses", "surrogate,surrogate+mse", "--seeds", 1, "--lrs", "0.01")
    rows = {row["loss"]: row for row in surrogate_cli("compare", "--run", run, *TOY, *asked, "--json").json["rows"]}
    alone, mean = (rows[name]["runs"][0] for name in ("surrogate", "surrogate+mse"))
    assert mean["fidelity"] == alone["fidelity"]
    assert mean["agreement"] is not None
    assert mean["test"] != alone["test"]


def test_a_run_that_diverges_is_told_and_counted(compared, surrogate_cli):
    asked = ("--losses", "mse,surrogate", "--seeds", 1, "--lrs", "1e30")
    run = compared.parent / "diverged"
    row = surrogate_cli("compare", "--run", run, *TOY, *asked, "--json").json["rows"][1]
    assert (row["loss"], row["runs"]) == ("mse", [])
    (failed,) = row["failed"]
    assert (failed["seed"], failed["lr"]) == (0, 1e30)
    assert "lower" in failed["error"]
    table = (run / "table.md").read_text()
    assert "| mse (0 of 1 seeds) |" in table
    assert "- mse, seed 0, lr 1e+30: " in table


def result_of(*rows, **columns):
    def whole(name, mean, sd=None, failed=()):
        runs = [{}] * (2 - len(failed))
        return {"loss": name, "lr": 1, "runs": runs, "mean": mean, "sd": sd or {}, "failed": list(failed)}

    return {
        "spec": "s",
        "seeds": 2,
        "headline": "m",
        "higher_is_better": True,
        "columns": {"m": {"higher_is_better": True, "points": True}, **columns},
        "rows": [whole(*row) for row in rows],
    }


def test_parts_are_columns_and_the_best_is_bold():
    result = result_of(
        ("a_b", {"val.m": 0.5, "m": 0.4, "iou.car": 0.3}, {"m": 0.01}),
        ("c", {"val.m": 0.4, "m": 0.6, "iou.car": 0.2}, {}, [{"seed": 1, "lr": 1e-3, "error": "gone"}]),
    )
    markdown = to_markdown(result)
    assert "| loss | val m | m |" in markdown
    assert "| a_b | **50.0** | 40.0 ± 1.0 |" in markdown
    assert "| c (1 of 2 seeds) | 40.0 | **60.0** |" in markdown
    assert "- c, seed 1, lr 0.001: gone" in markdown
    assert r"a\_b & \textbf{30.0} & 40.0 $\pm$ 1.0 \\" in to_latex(result)


def test_a_number_that_some_seeds_lack_is_told_and_not_the_best():
    """A loss whose metric is undefined where the model collapses would else be the best by it."""
    rows = [
        {"loss": "a", "runs": [0, 1, 2], "failed": [], "mean": {"f": 0.5}, "sd": {"f": 0.1}, "undefined": {}},
        {"loss": "b", "runs": [0, 1, 2], "failed": [], "mean": {"f": 0.6}, "sd": {}, "undefined": {"f": 2}},
    ]
    result = {"rows": rows, "seeds": 3, "headline": "f", "columns": {"f": {"higher_is_better": True, "points": True}}}
    lines = to_latex({**result, "spec": "", "higher_is_better": True}).splitlines()
    assert any(r"\textbf{50.0" in line for line in lines)
    assert any("60.0 (1 of 3)" in line for line in lines)


def test_parts_beside_an_error_are_not_marked():
    rows = ("a", {"m": 0.4, "iou.car": 0.9}), ("b", {"m": 0.6, "iou.car": 0.1})
    error = {"higher_is_better": False, "points": True}
    markdown = to_markdown({**result_of(*rows, m=error), "higher_is_better": False})
    assert "| a | **40.0** |" in markdown
    assert "| a | 90.0 |" in markdown  # of an error's parts nobody said which way is better
    assert "| b | 10.0 |" in markdown


def test_each_column_has_its_own_direction_and_unit():
    rows = ("a", {"m": 0.2, "distance": 1.5, "other": 0.3}), ("b", {"m": 0.1, "distance": 12.25, "other": 0.2})
    markdown = to_markdown(result_of(*rows, distance={"higher_is_better": False, "points": False}))
    assert "| a | **20.0** | **1.5** | 30.0 |" in markdown
    assert "| b | 10.0 | 12.2 | 20.0 |" in markdown


def test_agreement_is_of_the_weights_that_were_kept(tmp_path):
    scores = [{"m": 0.3, "surrogate": {"spearman": 0.9}}, {"m": 0.5, "surrogate": {"spearman": 0.8}}]
    lines = [json.dumps({"epoch": n, "loss": 0.0, "val": line}) for n, line in enumerate(scores, 1)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    higher, lower = Selection("m", higher_is_better=True), Selection("m", higher_is_better=False)
    assert _agreement(tmp_path, higher, {"m": 0.4}) == {"spearman": 0.8}
    assert _agreement(tmp_path, lower, {"m": 0.4}) == {"spearman": 0.9}
    assert _agreement(tmp_path, higher, {"m": 0.5}) is None, "the start was kept"
    assert _agreement(tmp_path, higher, {"m": None}) == {"spearman": 0.8}


def test_the_table_tells_how_far_to_trust_what_was_learned(compared):
    result = json.loads((compared / "compare.json").read_text())
    lines = (compared / "table.md").read_text().splitlines()
    table = [line.split(" | ") for line in lines if line.startswith("| surrogate |")]
    learned = {row["loss"]: row for row in result["rows"]}["surrogate"]
    assert len(table) == 1 + len(learned["runs"])  # the row of the numbers before it
    for cells, run in zip(table[1:], learned["runs"], strict=True):
        assert float(cells[2]) == pytest.approx(run["fidelity"]["spearman"], abs=5e-4)
        lines = (compared / run["folder"] / "metrics.jsonl").read_text().splitlines()
        history = [json.loads(line)["val"] for line in lines]
        best = min(history, key=lambda scores: scores["f"])  # less is better
        assert run["agreement"] == best["surrogate"]
        assert float(cells[5]) == pytest.approx(best["surrogate"]["spearman"], abs=5e-4)


def test_the_worst_regime_is_named_and_an_undefined_number_is_a_dash():
    regimes = {"model": {"spearman": 0.99}, "empty": {"spearman": 0.9}, "perfect": {"spearman": None}}
    learned = {"seed": 3, "fidelity": {"spearman": 0.98, "wrong_sign": None, "by_regime": regimes}, "agreement": None}
    result = result_of(("a", {"m": 0.2}))
    result["rows"][0]["runs"] = [learned]
    assert "| a | 3 | 0.980 | 0.900 | - | - | empty |" in to_markdown(result)


def test_rates_that_tie_go_on_to_the_next_seed():
    def runs(*values):
        return [{"val": {"f": value}, "selected_by": "f", "higher_is_better": True} for value in values]

    assert list(_best({0.1: runs(0.5), 0.2: runs(0.7)})) == [0.2]
    tied = {0.1: runs(0.7), 0.2: runs(0.7), 0.3: runs(0.6)}
    assert list(_best(tied)) == [0.1, 0.2]
    assert list(_best({0.1: runs(0.7, 0.4), 0.2: runs(0.7, 0.5)})) == [0.2]
    assert list(_best({0.1: runs(0.7), 0.2: runs(0.7, 0.1)})) == [0.2]  # the other one has ended in fewer seeds


def test_the_rate_of_a_loss_is_chosen_by_its_own_direction():
    at = {"selected_by": "distance", "higher_is_better": False}
    near, far, undefined = ({"val": {"distance": value}, **at} for value in (1.0, 2.0, None))
    assert sorted([far, undefined, near], key=_on_val) == [undefined, far, near]
