"""How many residual blocks a network of depth n has."""

from shallowpaths.theory.checks import one_of

_ANY = range(2**62)
_DEPTHS = {  # which there are, and what another one is told
    "wide-resnet": (_ANY[10::6], "a Wide-ResNet's depth is 6 m + 4, for example 10, 16, 22, 28, 40, 100 or 1000"),
    "residual-mlp": (_ANY[6::2], "a ResidualMLP's depth is an even number of at least 6, for example 16, 100 or 1000"),
    "resnet50-v2": (_ANY[50:51], "the network 'resnet50-v2' has a depth of 50"),
}
NETWORKS = tuple(_DEPTHS)


def blocks_of(depth: int, network: str = "wide-resnet") -> int:
    """The number d of residual blocks in a network of depth n: (n - 4) / 2, in ResNet-50-V2 (n - 2) / 3 = 16.

    A Wide-ResNet's depth is 6 m + 4 with m >= 1, a ResidualMLP's an even number >= 6; ValueError for others.
    """
    one_of("network", network, NETWORKS)
    depths, rule = _DEPTHS[network]
    if not isinstance(depth, int) or isinstance(depth, bool) or depth not in depths:
        raise ValueError(f"depth {depth!r}: {rule}")
    return (depth - 2) // 3 if network == "resnet50-v2" else (depth - 4) // 2
