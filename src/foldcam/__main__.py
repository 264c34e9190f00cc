"""`python -m foldcam`: the program `foldcam`."""

from foldcam.runtime.cli.foldcam import main

if __name__ == "__main__":
    main()
