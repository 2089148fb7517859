"""Base of every section of a config, and the types of its values."""

from typing import Annotated, Any

import pydantic


class Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, str_min_length=1
    )

    @pydantic.model_validator(mode="before")
    @classmethod
    def _truth_is_no_number(cls, given: Any) -> Any:
        """Pydantic takes `true` for 1: `steps: true` would train one step."""
        for key, value in given.items() if isinstance(given, dict) else ():
            if isinstance(value, bool) and key in cls.model_fields and cls.model_fields[key].annotation is not bool:
                raise ValueError(f"{key}={str(value).lower()} is a truth value: give what {key} holds")
        return given


PositiveInt = Annotated[int, pydantic.Field(gt=0)]
NonNegative = Annotated[float, pydantic.Field(ge=0)]
MethodName = Annotated[str, pydantic.Field(pattern=r"^[a-z0-9_]+$")]
FileName = Annotated[str, pydantic.Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$")]
"""Name of a folder that a run or its pictures get."""
Fraction = Annotated[float, pydantic.Field(ge=0, le=1)]
Decay = Annotated[float, pydantic.Field(ge=0, lt=1)]
Seed = Annotated[int, pydantic.Field(ge=0, lt=2**32)]
"""The range that torch, NumPy and scikit-learn all accept."""


def _whole_above_one(gpus: float) -> float:
    if gpus > 1 and gpus != int(gpus):
        raise ValueError(f"{gpus} GPUs: Ray gives whole ones, or a part of one; choose {int(gpus)} or {int(gpus) + 1}")
    return gpus


Gpus = Annotated[NonNegative, pydantic.AfterValidator(_whole_above_one)]
