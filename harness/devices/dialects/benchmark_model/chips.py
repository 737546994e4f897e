"""The chips of phones and the processors of their NPUs, from LiteRT's tables of vendors.

Sources: LiteRT litert/vendors/qualcomm/supported_soc.csv and litert/vendors/mediatek/supported_soc.csv.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_BY_VERSION: Mapping[str, str] = {
    "v81": "SW6100 SM8850 SAR2230P",
    "v79": "SM8750 SXR2330P",
    "v75": "QCS8625 SM8650 QCS8300 QCS8275",
    "v73": (
        "QCM6690 QCS6690 QCS9100 QCS9075 SSG2125P SSG2115P SAR2130P SM8635 SM8550 SM7675 SM7550 SM7435 "
        "SM6450 QCM8550LA QCM8550LE SC8380XP SXR1230P SA8255"
    ),
    "v69": "SM8475 SM8450 SM7475 SM7450 SM7425 SXR2230P SXR2250P",
    "v68": "SM8350 SM8350P SM7350 SM7325 SM7315 QCM6490 SA8295",
}
HEXAGON: Mapping[str, str] = {
    chip: version for version, chips in _BY_VERSION.items() for chip in chips.split()
}
"""The version of the DSP that runs the NPU's programs, by Qualcomm's chip."""

_VARIANT = re.compile(r"^(MT\d{4})[A-Z_]*(?:/[A-Z]+)?$")
_QUALCOMM_SUFFIX = re.compile(r"^(SM\d{4})(?:-[A-Z0-9]+)?$")


def plain_name(chip: str) -> str:
    """Return a chip's name without the variants of one design: MT6989Z/CZA is MT6989."""
    name = chip.strip().upper()
    for pattern in (_VARIANT, _QUALCOMM_SUFFIX):
        match = pattern.match(name)
        if match:
            return match[1]
    return name


def same_chip(first: str, second: str) -> bool:
    """Whether two names mean one chip; the vendor's name before it (`Qualcomm SM8650`) is ignored."""
    one, two = (plain_name(name.split()[-1]) if name.split() else "" for name in (first, second))
    return one == two
