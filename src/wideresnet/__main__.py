"""`python -m wideresnet` is the command `wrn`."""

from wideresnet.cli import main

if __name__ == "__main__":
    main()
