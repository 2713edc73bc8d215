"""The colours of the report, each as a pair for light and dark paper.

Figures are drawn with the light ones; on dark paper the report's script swaps each for its partner, so a light colour
stands for one role only. Blue, orange and grey stay apart for colour-blind readers.
"""

ROLES: dict[str, tuple[str, str]] = {
    "paper": ("#ffffff", "#15181d"),
    "panel": ("#f6f7f9", "#1c2027"),
    "ink": ("#1b2230", "#e6e9ee"),
    "muted": ("#5d6779", "#9aa4b4"),
    "rule": ("#e2e6ec", "#2c323c"),
    "front": ("#1f6fd0", "#6eadff"),
    "winner": ("#d8570a", "#ff9b54"),
    "other": ("#a3adbd", "#5f6b7d"),
    "reference": ("#7a4fa3", "#c4a0e8"),
    "bicubic": ("#3f7f57", "#86c99d"),
    "warning": ("#8a5a00", "#f0c060"),
}
LIGHT = {role: light for role, (light, _) in ROLES.items()}
DARK_OF_LIGHT = dict(ROLES.values())

# For curves that must be told apart; mid-tones that read on either paper and need no partner.
CURVES = ("#3b82c4", "#3f9e68", "#c2518a", "#8b6fd0", "#ab9122", "#2f9c9c", "#a86c4c", "#d05a52", "#6f86a8", "#7f9a3a")
# By which pruning chooses what to cut.
STRATEGIES: dict[str, str] = dict(
    zip(("inner", "group", "block", "interval", "free", "uniform"), CURVES, strict=False),
)
