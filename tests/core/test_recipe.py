"""Settings: what is read is checked, named in complaints, and written back unchanged."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from surrogate.errors import UsageError
from surrogate.recipe import (
    MeasureRecipe,
    ModelRecipe,
    Recipe,
    Section,
    TrainRecipe,
    build,
    differing_keys,
    merged,
    parse_override,
    read_toml,
    to_toml,
)
from surrogate_segmentation.recipe import SegmentationRecipe


class TinyModel(ModelRecipe):
    width: int = 4
    sizes: tuple[int, ...] = ()


class TinyRecipe(Recipe):
    app: str = "tiny"
    measure: MeasureRecipe = MeasureRecipe(name="accuracy")
    data: Section = Section()
    model: TinyModel | None = None  # type: ignore[assignment]


def tiny(**settings: Any) -> TinyRecipe:
    return build(TinyRecipe, settings, where="recipe")


def complaint(kind: type[Recipe] = TinyRecipe, **settings: Any) -> str:
    with pytest.raises(UsageError) as caught:
        build(kind, settings, where="a.toml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"sed": 1}, "a.toml: unknown recipe key 'sed'; did you mean 'seed'?"),
        ({"fit": {"wdith": 3}}, "a.toml: unknown recipe key 'fit.wdith'; did you mean 'fit.width'?"),
        ({"model": {"widht": 3}}, "a.toml: unknown recipe key 'model.widht'; did you mean 'model.width'?"),
        ({"finetune": {"ce": 3}}, "a.toml: unknown recipe key 'finetune.ce'; known: batch_size, ce_mix, epochs"),
        ({"data": {"path": "x"}}, "a.toml: unknown recipe key 'data.path'; known: none"),
        ({"fit": 3}, "a.toml: recipe key 'fit' is 3: "),
        ({"seed": -1}, "a.toml: recipe key 'seed' is -1: Input should be greater than or equal to 0"),
        ({"train": {"epochs": 0}}, "a.toml: recipe key 'train.epochs' is 0: Input should be greater than 0"),
        ({"train": {"lr": "fast"}}, "a.toml: recipe key 'train.lr' is 'fast': Input should be a valid number"),
        ({"train": {"optimizer": "adam"}}, "a.toml: recipe key 'train.optimizer' is 'adam': Input should be 'adamw'"),
        ({"collect": {"pools": 1}}, "a.toml: recipe key 'collect.pools' is 1: "),
        ({"fit": {"holdout": 0.0}}, "a.toml: recipe key 'fit.holdout' is 0.0: Input should be greater than 0"),
        ({"fit": {"holdout": 0.7}}, "a.toml: recipe key 'fit.holdout' is 0.7: "),
        ({"finetune": {"ce_mix": 1.5}}, "a.toml: recipe key 'finetune.ce_mix' is 1.5: "),
        (
            {"finetune": {"refresh": "sometimes"}},
            "a.toml: recipe key 'finetune.refresh' is 'sometimes': Input should be 'auto' or 'never', or a valid int",
        ),
        (
            {"finetune": {"refresh": 0}},
            "a.toml: recipe key 'finetune.refresh' is 0: Input should be 'auto' or 'never', or greater than 0",
        ),
        ({"fit": {"lr": math.inf}}, "a.toml: recipe key 'fit.lr' is inf: Input should be a finite number"),
        ({"finetune": {"ce_mix": math.nan}}, "a.toml: recipe key 'finetune.ce_mix' is nan: Input should be"),
        ({"depth": 3}, "a.toml: unknown recipe key 'depth'; did you mean 'fit.depth'?"),
        (
            {"epochs": 3},
            "a.toml: unknown recipe key 'epochs'; did you mean 'train.epochs' or 'fit.epochs' or 'finetune.epochs'?",
        ),
        ({"train": {"patience": 3}}, "a.toml: unknown recipe key 'train.patience'; did you mean 'fit.patience'?"),
        ({"model": {"sizes": [1, "b"]}}, "a.toml: recipe key 'model.sizes.1' is 'b': "),
    ],
)
def test_a_complaint_names_the_key_what_was_found_and_what_was_expected(
    settings: dict[str, Any], expected: str
) -> None:
    assert complaint(**settings).startswith(expected)


def test_a_measure_without_a_name_is_told() -> None:
    settings: dict[str, Any] = {"app": "tiny", "measure": {}, "data": {}, "model": {}}
    assert complaint(Recipe, **settings) == "a.toml: recipe key 'measure.name' is missing"


class OwnDefaults(TinyRecipe):
    measure: MeasureRecipe = MeasureRecipe(name="f1", level="batch")  # type: ignore[call-arg]
    train: TrainRecipe = TrainRecipe(epochs=20, batch_size=64)


def test_what_is_given_of_a_table_leaves_the_rest_of_it_as_the_class_has_it() -> None:
    recipe = build(OwnDefaults, {"train": {"epochs": 2}}, where="recipe")
    assert (recipe.train.epochs, recipe.train.batch_size, recipe.train.lr) == (2, 64, TrainRecipe().lr)
    assert build(OwnDefaults, {}, where="recipe").train.epochs == 20
    assert build(OwnDefaults, tomllib.loads(to_toml(recipe)), where="recipe") == recipe
    wrong = complaint(OwnDefaults, train={"epohcs": 3})
    assert wrong == "a.toml: unknown recipe key 'train.epohcs'; did you mean 'train.epochs'?"


@pytest.mark.parametrize(
    ("given", "name", "options"),
    [
        ({"level": "sample"}, "f1", {"level": "sample"}),
        ({"beta": 2}, "f1", {"level": "batch", "beta": 2}),
        ({"name": "f1"}, "f1", {"level": "batch"}),
        ({"name": "mcc"}, "mcc", {}),  # whose level is its own
    ],
)
def test_a_measure_keeps_its_name_and_its_own_settings(
    given: dict[str, Any], name: str, options: dict[str, Any]
) -> None:
    measure = build(OwnDefaults, {"measure": given}, where="recipe").measure
    assert (measure.name, measure.options) == (name, options)


def test_a_recipe_does_not_change_after_it_was_read() -> None:
    with pytest.raises(ValidationError):
        tiny().fit.width = 3  # type: ignore[misc]


def test_other_keys_of_the_measure_are_for_its_factory() -> None:
    assert tiny().measure.options == {}
    assert tiny(measure={"name": "iou", "level": "batch"}).measure.options == {"level": "batch"}


def test_a_written_recipe_reads_as_the_same(tmp_path: Path) -> None:
    settings = {
        "seed": 7,
        "measure": {"name": "iou", "level": "batch", "classes": [1, 2], "soft": {"width": 0.1}},
        "model": {"weights": 'C:\\odd "name".pt', "sizes": [3, 5]},
        "fit": {"columns": ["tp", "fp"], "lr": 1e-7},
    }
    recipe = tiny(**settings)
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(recipe), encoding="utf-8")
    assert build(TinyRecipe, read_toml(path), where="x") == recipe
    assert to_toml(build(TinyRecipe, read_toml(path), where="x")) == to_toml(recipe)
    assert tomllib.loads(to_toml(recipe))["fit"]["width"] == 100  # defaults are written out
    assert build(TinyRecipe, tomllib.loads(to_toml(tiny())), where="x") == tiny()  # without a model


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    with pytest.raises(UsageError, match=r"a\.toml: cannot be read \(No such file or directory\); expected a recipe"):
        read_toml(path)
    for content in (b"seed = ", b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=r"a\.toml: not TOML"):
            read_toml(path)


def test_a_file_whose_app_is_no_name_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("app = 5\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"a\.toml: app is 5; expected the name of an app, such as"):
        read_toml(path)


@pytest.mark.parametrize("text", ["fit.lr=inf", "measure.beta=-inf", "a=nan"])
def test_an_override_is_finite(text: str) -> None:
    with pytest.raises(UsageError, match=f"--set {text}: expected a finite number"):
        parse_override(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed=3", ("seed", 3)),
        ("train.lr=1e-3", ("train.lr", 0.001)),
        (" fit.depth = 2 ", ("fit.depth", 2)),
        ("data.check=false", ("data.check", False)),
        ("fit.columns=['tp', \"fp\"]", ("fit.columns", ["tp", "fp"])),
        ("data.size=120x160", ("data.size", "120x160")),
        ("data.path=C:\\images", ("data.path", "C:\\images")),
        ("data.path=a=b", ("data.path", "a=b")),
        ("model.weights=", ("model.weights", "")),
        ("measure.level='batch'", ("measure.level", "batch")),
    ],
)
def test_an_override_is_toml_or_else_a_string(text: str, expected: tuple[str, Any]) -> None:
    assert parse_override(text) == expected


@pytest.mark.parametrize("text", ["", "seed", "=3", " =3"])
def test_an_override_without_a_key_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected key=value, such as"):
        parse_override(text)


def test_merged_sets_dotted_keys_in_a_copy() -> None:
    settings = {"seed": 1, "fit": {"depth": 4}}
    changes = [("fit.width", 8), ("train.lr", 0.1), ("fit.depth", 2), ("fit.depth", 3), ("a.b.c", [1])]
    expected = {"seed": 1, "fit": {"depth": 3, "width": 8}, "train": {"lr": 0.1}, "a": {"b": {"c": [1]}}}
    assert merged(settings, changes) == expected
    assert settings == {"seed": 1, "fit": {"depth": 4}}


@pytest.mark.parametrize("key", ["seed.deep", "fit.depth.deep", "fit.depth.deep.deeper"])
def test_merged_does_not_make_a_table_of_a_setting(key: str) -> None:
    with pytest.raises(UsageError, match=rf"--set {key}: '(seed|depth)' is a single setting, not a table"):
        merged({"seed": 1, "fit": {"depth": 4}}, [(key, 1)])


def test_differing_keys_are_dotted_sorted_and_complete() -> None:
    one = tiny(measure={"name": "iou", "level": "batch"}, train={"lr": 0.1})
    other = tiny(measure={"name": "iou", "soft": {"width": 2}}, seed=1, fit={"columns": ["tp"]}, train={"lr": 0.1})
    expected = ["fit.columns", "measure.level", "measure.soft.width", "seed"]
    assert differing_keys(one, other) == differing_keys(other, one) == expected
    assert differing_keys(one, one) == []
    assert differing_keys(tiny(), tiny(fit={"width": 100})) == []  # a default that is written out is no difference


@pytest.mark.parametrize(("written", "size"), [("120x160", (120, 160)), (" 1x2 ", (1, 2)), ([3, 4], (3, 4))])
def test_a_size_is_height_x_width(written: Any, size: tuple[int, int]) -> None:
    recipe = build(SegmentationRecipe, {"data": {"size": written}}, where="x")
    assert recipe.data.size == size
    assert f'size = "{size[0]}x{size[1]}"' in to_toml(recipe)
    assert build(SegmentationRecipe, tomllib.loads(to_toml(recipe)), where="x") == recipe


def test_no_size_is_left_out_and_comes_back_as_none() -> None:
    text = to_toml(SegmentationRecipe())
    assert "size" not in tomllib.loads(text)["data"]
    assert build(SegmentationRecipe, tomllib.loads(text), where="x") == SegmentationRecipe()


@pytest.mark.parametrize("written", ["120", "120x", "12.5x3", "-1x2", "120X160", "axb"])
def test_a_size_that_is_none_is_named(written: str) -> None:
    found = complaint(SegmentationRecipe, data={"size": written})
    assert found == f"a.toml: recipe key 'data.size' is {written!r}: expected HxW in pixels, such as 120x160"


def test_a_size_of_nothing_is_named() -> None:
    assert complaint(SegmentationRecipe, data={"size": "0x3"}).startswith("a.toml: recipe key 'data.size.0' is 0: ")
