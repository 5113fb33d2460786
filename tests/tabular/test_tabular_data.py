"""Bundled tables and a user's CSV: balance, splits, standardising, and what is said of a bad file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from surrogate.errors import DataError, UsageError
from surrogate_tabular import app, data
from surrogate_tabular.data import Table
from surrogate_tabular.recipe import TableRecipe, TabularRecipe


def written(folder: Path, text: str) -> str:
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8")
    return str(path)


def lines(count: int = 200) -> str:
    """Age, colour and a class that is `yes` in every fourth line."""
    rows = (f"{20 + i % 37},{'red' if i % 3 else 'blue'},{'yes' if i % 4 == 0 else 'no'}" for i in range(count))
    return "age,colour,sick\n" + "\n".join(rows) + "\n"


def two_classes(*counts: int, labels: tuple[str, str] = ("0", "1")) -> str:
    """So many samples of each label."""
    rows = (f"{i % 37},{label}" for label, count in zip(labels, counts, strict=True) for i in range(count))
    return "age,sick\n" + "\n".join(rows) + "\n"


def open_table(recipe: TableRecipe) -> Table:
    return data.open_table(recipe, pools=5)


def opened(path: str, **settings: object) -> Table:
    return open_table(TableRecipe.model_validate({"path": path, "target": "sick", **settings}))


@pytest.mark.parametrize(("path", "positives"), [("digits", 174), ("cancer", 212)])
def test_positives_are_kept_by_their_share_and_no_sample_is_in_two_splits(path: str, positives: int) -> None:
    table = open_table(TableRecipe(path=path, keep=0.5))
    numbers = [set(rows.numbers) for rows in table.splits.values()]
    assert len(set.union(*numbers)) == sum(map(len, numbers))
    kept = [int(rows.targets.sum()) for rows in table.splits.values()]
    assert sum(kept) == positives // 2
    shares = [count / len(rows) for count, rows in zip(kept, table.splits.values(), strict=True)]
    assert max(shares) - min(shares) < 0.01  # stratified


def test_the_train_split_is_standardised_and_the_others_by_its_numbers() -> None:
    splits = open_table(TableRecipe(path="cancer")).splits
    assert torch.allclose(splits["train"].inputs.mean(0), torch.zeros(30), atol=1e-5)
    assert torch.allclose(splits["train"].inputs.std(0, correction=0), torch.ones(30), atol=1e-4)
    assert float(splits["test"].inputs.mean(0).abs().max()) > 0.01


def test_another_seed_is_another_split_and_the_same_seed_the_same() -> None:
    tables = [open_table(TableRecipe(path="cancer", seed=seed)).splits["test"].numbers for seed in (0, 0, 1)]
    assert tables[0] == tables[1] != tables[2]


@pytest.mark.parametrize(("path", "noise"), [("digits", 1.0), ("cancer", 1.0), ("mine.csv", 0.1)])
def test_the_usual_noise_is_that_of_the_table_and_in_the_recipe(path: str, noise: float) -> None:
    recipe = TabularRecipe.model_validate({"data": {"path": path}})
    assert recipe.model_dump()["data"]["noise"] == noise
    assert TabularRecipe(data=recipe.data).data.noise == noise
    assert TableRecipe(path=path, noise=0.5).noise == 0.5


def test_noise_is_drawn_from_the_generator_and_only_for_one() -> None:
    rows = open_table(TableRecipe(path="cancer", noise=0.5)).splits["train"]
    plain, noisy = rows.load(3, None)[0], rows.load(3, torch.Generator().manual_seed(0))[0]
    assert torch.equal(plain, rows.inputs[3])
    assert 0.3 < float((noisy - plain).std()) < 0.7
    assert torch.equal(noisy, rows.load(3, torch.Generator().manual_seed(0))[0])


def test_a_csv_is_read_with_numbers_and_words(tmp_path: Path) -> None:
    table = opened(written(tmp_path, lines()), keep=1.0)
    assert table.features == 3  # age, blue, red
    assert "sick = yes" in table.title
    row = table.splits["train"]
    assert [int(target) for target in row.targets] == [int(number % 4 == 0) for number in row.numbers]
    blue = row.inputs[:, 1] > 0
    assert blue.tolist() == [number % 3 == 0 for number in row.numbers]


def test_numbers_with_a_word_among_them_are_a_category(tmp_path: Path) -> None:
    text = "children,sick\n" + "".join(f"{('0', '1', '2', '3+')[n % 4]},{int(n % 5 == 0)}\n" for n in range(300))
    assert opened(written(tmp_path, text), keep=1.0).features == 4


def test_a_column_that_does_not_vary_says_nothing(tmp_path: Path) -> None:
    """The deviation of a tenth a hundred times is not 0 but rounding, and no other number is far from it."""
    text = lines().replace("age,", "same,age,", 1).replace("\n", "\n0.1,").removesuffix("0.1,")
    text = text.replace("0.1,20,blue", "0.3,20,blue", 1)
    splits = opened(written(tmp_path, text), keep=1.0).splits
    assert max(float(rows.inputs[:, 0].abs().max()) for rows in splits.values()) < 20.0


def test_the_positive_class_can_be_named(tmp_path: Path) -> None:
    table = opened(written(tmp_path, lines()), positive="no", keep=1.0)
    assert float(table.splits["train"].targets.double().mean()) == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize(
    ("text", "settings", "said"),
    [
        (lines(), {"target": ""}, "--target"),
        (lines(), {"target": "sik"}, "did you mean 'sick'"),
        (lines(), {"target": "age"}, "expected 2"),
        (lines(), {"positive": "maybe"}, "holds no and yes"),
        (lines().replace("20,blue", "20", 1), {}, ":2: 2 cells, expected 3"),
        (lines().replace("20,blue", ",blue", 1), {}, ":2: nothing in column 'age' (1 of 200 lines have gaps)"),
        (lines().replace("20,blue", "nan,blue", 1), {}, "'age' holds 'nan' at sample 1 (1 of 200 samples are no"),
        (lines().replace("20,blue", "N/A,blue", 1), {}, "'age' holds 'N/A' at sample 1"),
        (lines().replace("20,blue", "2_0,blue", 1), {}, "'age' is not numeric (first: '2_0')"),
        (lines().replace("20,blue", "old,blue", 1), {}, "'age' is not numeric (first: 'old')"),
        (lines().replace("age,colour", "sick,colour"), {}, "repeat"),
        (lines().replace(",", ";"), {}, "';' and no comma in the line of column names"),
        (lines().replace(",", "\t"), {"target": ""}, "'\\t' and no comma in the line of column names"),
        (lines().replace("yes", "YES", 3), {}, "expected 2: write YES and yes in one way"),
        (two_classes(60, 60).replace(",1", ",1.0", 9), {}, "(0, 1, 1.0); expected 2: write 1 and 1.0 in one way"),
        (lines().replace("yes", "maybe", 3), {}, "expected 2: join or drop the others"),
        (two_classes(49, 90), {}, "49 samples of the rarer class, expected 50 or more at data.holdout=0.3: 5 each"),
        (two_classes(49, 90), {}, "each of the collect.pools=5; set data.holdout=0.29 or bring more data"),
        (
            two_classes(15, 15),
            {},
            "expected 50 or more at data.holdout=0.3: 5 each in val and test, and in train 4 for",
        ),
        (two_classes(15, 15), {}, "collect.pools=5; bring more data"),
        (two_classes(90, 60), {"keep": 0.2}, "12 samples of the rarer class"),
        (two_classes(90, 60), {"keep": 0.2}, "collect.pools=5; raise data.keep or bring more data"),
        (two_classes(25, 90), {"holdout": 0.4}, "expected 100 or more at data.holdout=0.4"),
        ("sick\nyes\nno\n", {}, "only column"),
        ("sick\n", {}, "1 lines"),
    ],
)
def test_a_bad_csv_is_told_with_what_to_do(tmp_path: Path, text: str, settings: dict[str, str], said: str) -> None:
    with pytest.raises(DataError) as error:
        opened(written(tmp_path, text), **settings)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        opened(str(tmp_path / "none.csv"))


@pytest.mark.parametrize(
    ("labels", "positive"), [(("0", "1"), "1"), (("True", "False"), "True"), (("yes", "no"), "yes")]
)
def test_of_two_as_frequent_the_later_is_positive(tmp_path: Path, labels: tuple[str, str], positive: str) -> None:
    table = opened(written(tmp_path, two_classes(60, 60, labels=labels)))
    assert f"sick = {positive} against" in table.title


def test_the_rarer_one_is_positive_wherever_it_stands(tmp_path: Path) -> None:
    assert "sick = 0 against" in opened(written(tmp_path, two_classes(60, 61))).title


@pytest.mark.parametrize(("share", "least"), [(0.3, 50), (0.17, 31), (0.4, 100), (0.1, 50)])
def test_as_many_as_are_said_to_be_enough_are(tmp_path: Path, share: float, least: int) -> None:
    table = opened(written(tmp_path, two_classes(3 * least, least)), holdout=share)
    found = {name: int(rows.targets.sum()) for name, rows in table.splits.items()}
    assert found["train"] >= 20 - 1  # strata are rounded
    assert min(found["val"], found["test"]) >= 5
    with pytest.raises(DataError, match=f"expected {least} or more"):
        opened(written(tmp_path, two_classes(3 * least, least - 1)), holdout=share)


def test_more_pools_need_more_samples(tmp_path: Path) -> None:
    recipe = {"app": "tabular", "data": {"path": written(tmp_path, lines()), "target": "sick"}}
    assert app.open(TabularRecipe.model_validate(recipe)).about
    with pytest.raises(DataError, match=r"expected 100 or more .* collect\.pools=10"):
        app.open(TabularRecipe.model_validate({**recipe, "collect": {"pools": 10}}))


def test_the_inputs_of_a_csv_are_told_apart(tmp_path: Path) -> None:
    assert opened(written(tmp_path, lines())).contents == "3 inputs (1 number, 1 category of 2)"
    assert opened(written(tmp_path, two_classes(60, 60))).contents == "1 input (1 number)"
    text = "colour,size,sick\n" + "".join(f"{'rgb'[n % 3]},{'sl'[n % 2]},{int(n % 4 == 0)}\n" for n in range(200))
    assert opened(written(tmp_path, text)).contents == "5 inputs (2 categories of 3 + 2)"
    assert open_table(TableRecipe(path="digits")).contents == "64 inputs"


def test_columns_that_are_constant_are_named(tmp_path: Path) -> None:
    text = lines().replace("age,", "same,site,age,", 1).replace("\n", "\n0.1,A,").removesuffix("0.1,A,")
    contents = "5 inputs (2 numbers, 2 categories of 1 + 2)"
    assert opened(written(tmp_path, text)).contents == f"{contents}; constant in train: same, site"
    text = "a,b,c,d,age,sick\n" + "".join(f"1,2,3,4,{n},{int(n % 4 == 0)}\n" for n in range(200))
    assert opened(written(tmp_path, text)).contents == "5 inputs (5 numbers); constant in train: a, b, c, ..."


@pytest.mark.parametrize("path", ["digits", "cancer"])
@pytest.mark.parametrize("settings", [{"target": "digit"}, {"positive": 8}])
def test_a_bundled_table_has_its_classes(path: str, settings: dict[str, object]) -> None:
    (key,) = settings
    with pytest.raises(UsageError, match=rf"data\.{key} is .* bundled table '{path}' are given; name a CSV"):
        open_table(TableRecipe.model_validate({"path": path, **settings}))
