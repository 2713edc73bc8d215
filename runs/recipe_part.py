"""What all parts of a recipe are, and the kinds of numbers that they share."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Part(BaseModel):
    """Strict: no unknown keys, no silent conversions, no infinities, frozen."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


Positive = Annotated[int, Field(ge=1)]
Above0 = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1, title="a share, above 0 and below 1")]
