"""How the authors' published weights name the modules that are ours too: their module path to ours.

Each table holds pairs (pattern, replacement) for `re.fullmatch` and `Match.expand`. Authors count blocks from 1 or
from 0; we count from 0.
"""


def _numbered(count: int, names: dict[str, str]) -> dict[str, str]:
    """`names` once for each of `count` blocks: `#` in their name counts from 1, in ours from 0."""
    return {
        theirs.replace("#", str(index + 1)): ours.replace("#", str(index))
        for index in range(count)
        for theirs, ours in names.items()
    }


# KAIR's MSRResNet1.
MSRRESNET = {
    r"conv_first": r"head.0",
    r"recon_trunk\.(\d+)\.conv1": r"blocks.\1.first",
    r"recon_trunk\.(\d+)\.conv2": r"blocks.\1.second",
    r"upconv1": r"upsampler.step_1",
    r"upconv2": r"upsampler.step_2",
    r"HRconv": r"upsampler.full",
    r"conv_last": r"upsampler.last",
}

# The challenge's copies of IMDN, in KAIR and in NTIRE2022_ESR.
IMDN = {
    r"model\.0": r"head.0",
    **_numbered(3, {r"model\.1\.sub\.(\d)\.conv#\.0": r"blocks.\1.stages.#"}),
    r"model\.1\.sub\.(\d)\.conv4": r"blocks.\1.last",
    r"model\.1\.sub\.(\d)\.conv1x1": r"blocks.\1.fuse",
    r"model\.1\.sub\.8": r"body_conv",
    r"model\.2": r"upsampler.conv",
}

# What IMDN's and RFDN's own repositories share.
_IMDN_STYLE = {
    r"fea_conv": r"head.0",
    r"c\.0": r"fusion.fuse",
    r"LR_conv": r"body_conv",
    r"upsampler\.0": r"upsampler.conv",
}

IMDN_PAPER = {
    **_IMDN_STYLE,
    **_numbered(
        6,
        {
            r"IMDB#\.c1": r"blocks.#.stages.0",
            r"IMDB#\.c2": r"blocks.#.stages.1",
            r"IMDB#\.c3": r"blocks.#.stages.2",
            r"IMDB#\.c4": r"blocks.#.last",
            r"IMDB#\.cca\.conv_du\.0": r"blocks.#.attention.squeeze",
            r"IMDB#\.cca\.conv_du\.2": r"blocks.#.attention.excite",
            r"IMDB#\.c5": r"blocks.#.fuse",
        },
    ),
}

RFDN = {
    **_IMDN_STYLE,
    **_numbered(
        4,
        {
            r"B#\.c1_d": r"blocks.#.distil.0",
            r"B#\.c2_d": r"blocks.#.distil.1",
            r"B#\.c3_d": r"blocks.#.distil.2",
            r"B#\.c1_r": r"blocks.#.refine.0",
            r"B#\.c2_r": r"blocks.#.refine.1",
            r"B#\.c3_r": r"blocks.#.refine.2",
            r"B#\.c4": r"blocks.#.last",
            r"B#\.c5": r"blocks.#.fuse",
            r"B#\.esa\.conv1": r"blocks.#.attention.reduce",
            r"B#\.esa\.conv_f": r"blocks.#.attention.skip",
            r"B#\.esa\.conv2": r"blocks.#.attention.stride",
            r"B#\.esa\.conv_max": r"blocks.#.attention.pooled_1",
            r"B#\.esa\.conv3": r"blocks.#.attention.pooled_2",
            r"B#\.esa\.conv3_": r"blocks.#.attention.pooled_3",
            r"B#\.esa\.conv4": r"blocks.#.attention.expand",
        },
    ),
}

PAN = {
    r"conv_first": r"head.0",
    r"SCPA_trunk\.(\d+)\.conv1_a": r"blocks.\1.plain_in",
    r"SCPA_trunk\.(\d+)\.conv1_b": r"blocks.\1.gated_in",
    r"SCPA_trunk\.(\d+)\.k1\.0": r"blocks.\1.plain",
    r"SCPA_trunk\.(\d+)\.PAConv\.k2": r"blocks.\1.mask",
    r"SCPA_trunk\.(\d+)\.PAConv\.k3": r"blocks.\1.gated",
    r"SCPA_trunk\.(\d+)\.PAConv\.k4": r"blocks.\1.gated_out",
    r"SCPA_trunk\.(\d+)\.conv3": r"blocks.\1.fuse",
    r"trunk_conv": r"body_conv",
    **_numbered(
        2,
        {
            r"upconv#": r"upsampler.grow.#",
            r"att#\.conv": r"upsampler.attend.#.mask",
            r"HRconv#": r"upsampler.refine.#",
        },
    ),
    r"conv_last": r"upsampler.last",
}

LATTICENET = {
    r"sub_mean": r"subtract_mean",
    **_numbered(2, {r"conv#": r"head.#"}),
    **_numbered(
        4,
        {
            r"body_unit#\.conv_block([01])\.([024])": r"blocks.#.branches.\1.\2",
            r"body_unit#\.fea_ca1\.conv_mean\.([02])": r"blocks.#.coefficients.0.mean.\1",
            r"body_unit#\.fea_ca1\.conv_std\.([02])": r"blocks.#.coefficients.0.deviation.\1",
            r"body_unit#\.x_ca1\.conv_mean\.([02])": r"blocks.#.coefficients.1.mean.\1",
            r"body_unit#\.x_ca1\.conv_std\.([02])": r"blocks.#.coefficients.1.deviation.\1",
            r"body_unit#\.fea_ca2\.conv_mean\.([02])": r"blocks.#.coefficients.2.mean.\1",
            r"body_unit#\.fea_ca2\.conv_std\.([02])": r"blocks.#.coefficients.2.deviation.\1",
            r"body_unit#\.x_ca2\.conv_mean\.([02])": r"blocks.#.coefficients.3.mean.\1",
            r"body_unit#\.x_ca2\.conv_std\.([02])": r"blocks.#.coefficients.3.deviation.\1",
            r"body_unit#\.compress": r"blocks.#.fuse",
        },
    ),
    **_numbered(3, {r"T_tdm#\.0": r"fusion.later.#", r"L_tdm#\.0": r"fusion.earlier.#"}),
    r"tail\.0": r"body_conv",
    r"tail\.1": r"upsampler.conv",
}
