"""What a store says of itself: its spec, and the manifest that lists its shards. See `docs/format.md`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from surrogate.errors import DataError, SurrogateError, UsageError
from surrogate.protocols import Level

MANIFEST: Final = "manifest.json"
SCHEMA: Final = 1


@dataclass(frozen=True, kw_only=True)
class StoreSpec:
    """What the rows of a store mean; only an equal spec may continue it.

    `columns` name the F statistics; `regimes`, by number, the changes of the outputs under which rows were
    recorded; `policies` hold the facts and options of the measure that its values depend on, ready for JSON.

    Raises:
        UsageError: no columns or regimes, names that repeat or hold a slash, or policies that are not JSON.
    """

    app: str
    measure: str
    measure_version: int
    level: Level
    columns: tuple[str, ...]
    regimes: tuple[str, ...]
    policies: Mapping[str, Any]

    def __post_init__(self) -> None:
        for what, names in (("columns", self.columns), ("regimes", self.regimes)):
            odd = [name for name in names if name in ("", ".") or "/" in name or not name.isprintable()]
            if not names or odd or len(set(names)) < len(names):
                raise UsageError(f"{what} {list(names)}: expected different names, without a slash")
        try:
            plain = json.loads(json.dumps(dict(self.policies), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise UsageError(f"policies of measure {self.measure!r}: not JSON: {error}") from None
        object.__setattr__(self, "policies", plain)

    def differing_keys(self, other: StoreSpec) -> list[str]:
        """What two specs differ in, sorted; a policy under a dotted name."""
        first, second = self._flat(), other._flat()
        missing = first.keys() ^ second.keys()
        return sorted(missing | {key for key in first.keys() & second.keys() if first[key] != second[key]})

    def _flat(self) -> dict[str, Any]:
        flat = asdict(self)
        return flat | {f"policies.{key}": value for key, value in flat.pop("policies").items()}


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ShardEntry(_Record):
    """What the manifest says of a shard: inclusive bounds of its samples, a half-open range of work items."""

    file: Annotated[str, Field(pattern=r"^shard-[0-9]{1,6}-[0-9]{5,9}\.h5$")]
    sha256: str
    bytes: PositiveInt
    rows: PositiveInt
    sample_min: int
    sample_max: int
    items: tuple[NonNegativeInt, NonNegativeInt]


class Manifest(_Record):
    """What a store holds. `cursor` is the first work item not in it, `undefined` counts dropped rows."""

    schema_version: Literal[1] = SCHEMA
    spec: StoreSpec
    shards: tuple[ShardEntry, ...] = ()
    cursor: NonNegativeInt = 0
    undefined: NonNegativeInt = 0
    complete: bool = False

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    def encode(self) -> bytes:
        """The file: JSON with sorted keys, and a checksum over all the rest."""
        return _with_checksum(self.model_dump(mode="json"))


def read_manifest(folder: Path) -> tuple[Manifest, bytes]:
    """The manifest of a store, and the bytes of its file.

    Raises:
        DataError: there is none, a byte of it was changed, or it lists what cannot be.
    """
    path = folder / MANIFEST
    try:
        raw = path.read_bytes()
    except OSError as error:
        reason = f"cannot be read ({error.strerror}); expected statistics, made by collect"
        raise DataError(f"{path}: {reason}") from None
    try:
        return _decode(raw), raw
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise refusal(path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except (ValueError, RecursionError, SurrogateError) as error:
        raise refusal(path, error) from None


def refusal(path: Path, found: object) -> DataError:
    """The error for a file of a store that is not as it was written."""
    reason = " ".join(str(found).split())
    return DataError(f"{path}: {reason}; delete the folder {path.parent} and run collect again")


def _with_checksum(plain: Mapping[str, Any]) -> bytes:
    body = json.dumps(plain, sort_keys=True, indent=1, allow_nan=False)
    checksum = hashlib.sha256(body.encode()).hexdigest()
    return (json.dumps({**plain, "checksum": checksum}, sort_keys=True, indent=1) + "\n").encode()


def _decode(raw: bytes) -> Manifest:
    plain = json.loads(raw)
    checksum = plain.pop("checksum", None) if isinstance(plain, dict) else None
    if checksum is None or _with_checksum(plain) != raw:  # the whole file, so that white space counts too
        raise ValueError("its checksum is not that of what it holds")
    if plain.get("schema_version") != SCHEMA:
        raise ValueError(f"schema version {plain.get('schema_version')}, expected {SCHEMA}")
    manifest = Manifest.model_validate_json(json.dumps(plain))
    stop = 0
    for place, entry in enumerate(manifest.shards):
        if int(entry.file.removesuffix(".h5").split("-")[2]) != place:
            raise ValueError(f"lists {entry.file} in place {place}")
        if entry.items[0] != stop or entry.items[1] < stop:
            raise ValueError(f"{entry.file} holds work items {entry.items}, expected to begin at {stop}")
        stop = entry.items[1]
    if manifest.cursor < stop:
        raise ValueError(f"cursor {manifest.cursor}, expected at least {stop}")
    return manifest
