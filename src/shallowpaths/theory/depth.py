"""How many residual blocks a network of depth n has."""

from shallowpaths.theory.checks import one_of

NETWORKS = ("wide-resnet", "residual-mlp", "resnet50-v2")


def blocks_of(depth: int, network: str = "wide-resnet") -> int:
    """The number d of residual blocks in a network of depth n: (n - 4) / 2, in ResNet-50-V2 (n - 2) / 3 = 16.

    Raises:
        ValueError: a Wide-ResNet's depth must be 6 m + 4 with m >= 1, a ResidualMLP's an even number >= 6, ResNet-50-V2's 50.
    """
    one_of("network", network, NETWORKS)
    whole = isinstance(depth, int) and not isinstance(depth, bool)
    if network == "wide-resnet" and not (whole and depth >= 10 and (depth - 4) % 6 == 0):
        raise ValueError(
            f"depth {depth!r}: a Wide-ResNet's depth is 6 m + 4, for example 10, 16, 22, 28, 40, 100 or 1000"
        )
    if network == "residual-mlp" and not (whole and depth >= 6 and depth % 2 == 0):
        raise ValueError(
            f"depth {depth!r}: a ResidualMLP's depth is an even number of at least 6, for example 16, 100 or 1000"
        )
    if network == "resnet50-v2" and not (whole and depth == 50):
        raise ValueError(f"depth {depth!r}: the network 'resnet50-v2' has a depth of 50")
    return (depth - 2) // 3 if network == "resnet50-v2" else (depth - 4) // 2
