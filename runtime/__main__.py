"""`python -m foldcam.runtime`: the program `runtime`."""

from foldcam.runtime.cli.runtime import main

if __name__ == "__main__":
    main()
