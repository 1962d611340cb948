"""``python -m sctnet``, which is how launchers such as torchrun start the program."""

from sctnet.cli import main

if __name__ == "__main__":
    main()
