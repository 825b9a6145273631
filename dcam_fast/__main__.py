"""`python -m dcam_fast` is `dcam-fast`."""

from dcam_fast.cli.app import main

if __name__ == "__main__":
    main()
