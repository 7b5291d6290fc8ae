"""Records as text: strict JSON that a person can open.

JSON knows no infinity and no nan, yet a perplexity may overflow and a correlation may be undefined;
such a value is written as null and listed under the top-level key `non_finite`, so that null alone
always means "not measured":

    "metrics": {"pruned": {"perplexity": null}, ...},
    "non_finite": {"/metrics/pruned/perplexity": "inf"}

Reading the record gives the number back. The keys of `non_finite` are JSON pointers (RFC 6901).

A document says under `content` what else it held when it was written, as a sha256, so that one that
was edited by hand is noticed. Documents of earlier versions have no such key.
"""

import hashlib
import json
import math
import numbers
from copy import deepcopy
from typing import Any

CONTENT = "content"
_NON_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


class RecordError(ValueError):
    """A record that does not follow the schema; says which key, what was expected and got."""


def to_plain(data: dict[str, Any]) -> dict[str, Any]:
    """Finite JSON types with the extra key `non_finite`; tuples become lists.

    Raises:
        RecordError: A value that JSON does not have, named by its place.
    """
    non_finite: dict[str, str] = {}
    return {**_plain(data, "", non_finite), "non_finite": non_finite}


def from_plain(data: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `to_plain`. `data` is not changed; what it holds may be shared.

    Raises:
        RecordError: `non_finite` names places that are not null.
    """
    non_finite = data["non_finite"]
    if not isinstance(non_finite, dict):
        raise RecordError("non_finite: expected an object of JSON pointers")
    rest = {key: value for key, value in data.items() if key != "non_finite"}
    copy = deepcopy(rest) if non_finite else rest
    for pointer, name in non_finite.items():
        _restore(copy, pointer, name)
    return copy


def stamped(document: dict[str, Any]) -> dict[str, Any]:
    """The document with `content`, before its `provenance`."""
    items = list(document.items())
    items.insert(list(document).index("provenance"), (CONTENT, _digest(document)))
    return dict(items)


def check_stamp(document: dict[str, Any]) -> None:
    """Refuse a document that has a `content` which is not its own.

    Raises:
        RecordError: It was changed since it was written.
    """
    if CONTENT in document and document[CONTENT] != (digest := _digest(document)):
        raise RecordError(
            f"{CONTENT}: expected {document[CONTENT]}, as when it was written; got {digest}: it "
            "was changed since"
        )


def _digest(document: dict[str, Any]) -> str:
    rest = {key: value for key, value in document.items() if key != CONTENT}
    text = json.dumps(rest, sort_keys=True)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def to_text(document: dict[str, Any]) -> str:
    """Strict JSON, a key per line and a final line end.

    A list of numbers takes one line, a list of flat objects one line per object::

        {
         "seeds": [0, 1, 2],
         "site_errors": [
          {"layer": 0, "kind": "ffn", "error": 0.1},
          {"layer": 1, "kind": "ffn", "error": 0.2}
         ]
        }

    Raises:
        ValueError: A number that is not finite.
    """
    return _lines(document, "\n") + "\n"


def from_text(text: str) -> Any:
    """Parse strict JSON.

    Raises:
        RecordError: Not JSON; nan and infinity are none either.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as err:
        raise RecordError(f"not a JSON document: {err}") from err


def _lines(value: Any, end: str) -> str:
    inner = end + " "
    if isinstance(value, dict) and value:
        items = [f"{json.dumps(key)}: {_lines(item, inner)}" for key, item in value.items()]
        return f"{{{inner}{f',{inner}'.join(items)}{end}}}"
    if isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        items = [_strict(item) if _is_row(item) else _lines(item, inner) for item in value]
        return f"[{inner}{f',{inner}'.join(items)}{end}]"
    return _strict(value)


def _is_row(item: Any) -> bool:
    inside = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
    return not any(isinstance(value, dict) for value in inside)


def _strict(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


def _plain(value: Any, pointer: str, non_finite: dict[str, str]) -> Any:
    """`value` in JSON types; numbers of other libraries become int and float."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        number = float(value)
        if math.isfinite(number):
            return number
        non_finite[pointer] = "nan" if math.isnan(number) else f"{number:g}"
        return None
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise RecordError(f"{pointer}: expected text as key; got {key!r}")
        return {k: _plain(v, f"{pointer}/{_escape(k)}", non_finite) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, f"{pointer}/{i}", non_finite) for i, v in enumerate(value)]
    raise RecordError(f"{pointer}: expected a JSON value; got {type(value).__name__} {value!r}")


def _escape(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _restore(data: Any, pointer: str, name: str) -> None:
    """Put the number back where `pointer` leads, which must be a null."""
    parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
    try:
        for part in parts[:-1]:
            data = data[int(part)] if isinstance(data, list) else data[part]
        last: Any = int(parts[-1]) if isinstance(data, list) else parts[-1]
        there, number = data[last], _NON_FINITE[name]
    except (KeyError, IndexError, TypeError, ValueError) as err:
        raise RecordError(f"non_finite: {pointer}: {name!r} has no place in the record") from err
    if there is not None:
        raise RecordError(f"non_finite: {pointer}: expected null there; got {there!r}")
    data[last] = number


def _refuse_constant(name: str) -> Any:
    raise RecordError(f"expected strict JSON; got {name}")
