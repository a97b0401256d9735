"""`python -m shallowpaths` is the command `shallowpaths`, for torchrun above all."""

from shallowpaths.cli import main

if __name__ == "__main__":
    main()
