"""`python -m nodebench`, for where the script is not on the path."""

from nodebench.cli import main

if __name__ == "__main__":
    main()
