"""Bundled tables and a user's CSV: balance, splits, standardising, and what is said of a bad file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from surrogate.errors import DataError
from surrogate_tabular.data import open_table
from surrogate_tabular.recipe import TableRecipe


def written(folder: Path, text: str) -> str:
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8")
    return str(path)


def lines(count: int = 100) -> str:
    """Age, colour and a class that is `yes` in every fourth line."""
    rows = (f"{20 + i % 37},{'red' if i % 3 else 'blue'},{'yes' if i % 4 == 0 else 'no'}" for i in range(count))
    return "age,colour,sick\n" + "\n".join(rows) + "\n"


def opened(path: str, **settings: object):
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
    text = "children,sick\n" + "".join(f"{('0', '1', '2', '3+')[n % 4]},{int(n % 5 == 0)}\n" for n in range(100))
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
        (lines().replace("20,blue", ",blue", 1), {}, ":2: nothing in column 'age' (1 of 100 lines have gaps)"),
        (lines().replace("20,blue", "nan,blue", 1), {}, "'age' holds 'nan' at sample 1 (1 of 100 samples are no"),
        (lines().replace("20,blue", "N/A,blue", 1), {}, "'age' holds 'N/A' at sample 1"),
        (lines().replace("20,blue", "2_0,blue", 1), {}, "'age' is not numeric (first: '2_0')"),
        (lines().replace("20,blue", "old,blue", 1), {}, "'age' is not numeric (first: 'old')"),
        (lines().replace("age,colour", "sick,colour"), {}, "repeat"),
        (lines(12), {}, "leave 0 in a split, expected 5 or more; raise data.keep"),
        (lines(52), {"holdout": 0.4}, "13 samples of the rarer class leave 2 in a split"),
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
