"""What one JSON value has beyond another, so that a file goes out as it came in.

A page holds some fields of a foreign file, at the precision of the studio. The rest of the file is
kept as the difference from what the studio would write, and put back when it writes.

A difference is None (there is none), ``["value", v]`` (v instead), ``["object", {name: difference},
[names that are not there]]`` or ``["list", {place: difference}]``.
"""

from __future__ import annotations

from typing import Any, Optional

import numpy as np

Rest = Optional[list[Any]]
_ABSENT = object()


def plain(value: float) -> float:
    """A float32 as the double with the fewest digits that means the same: 0.1, and not
    0.10000000149011612."""
    return float(str(np.float32(value))) if value else 0.0


def rest_of(theirs: Any, ours: Any) -> Rest:
    """What has to be done to ``ours`` to get ``theirs``."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        changed = {}
        for key, value in theirs.items():
            found = rest_of(value, ours.get(key, _ABSENT))
            if found is not None:
                changed[key] = found
        gone = [key for key in ours if key not in theirs]
        return ["object", changed, gone] if changed or gone else None
    if _lists_of_objects(theirs, ours):
        places = {}
        for place, (value, mine) in enumerate(zip(theirs, ours, strict=True)):
            found = rest_of(value, mine)
            if found is not None:
                places[str(place)] = found
        return ["list", places] if places else None
    same = type(theirs) is not bool and type(ours) is not bool and theirs == ours
    return None if same or theirs is ours else ["value", theirs]


def with_rest(ours: Any, rest: Rest) -> Any:
    """What ``rest_of`` was told was theirs.

    Raises:
        ValueError: the difference is not one from such a value.
    """
    if rest is None:
        return ours
    try:
        kind = rest[0]
        if kind == "value":
            return rest[1]
        if kind == "object":
            _, changed, gone = rest
            found = {key: value for key, value in ours.items() if key not in gone}
            return found | {key: with_rest(ours.get(key), one) for key, one in changed.items()}
        if kind == "list":
            whole = list(ours)
            for place, one in rest[1].items():
                whole[int(place)] = with_rest(whole[int(place)], one)
            return whole
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"what was kept does not fit ({error})") from error
    raise ValueError("what was kept is no difference")


def _lists_of_objects(theirs: Any, ours: Any) -> bool:
    if not isinstance(theirs, list) or not isinstance(ours, list) or len(theirs) != len(ours):
        return False
    return bool(theirs) and all(isinstance(one, dict) for one in theirs)
