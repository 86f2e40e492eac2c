"""``python -m streamq`` is ``streamq``."""

from streamq.cli import main

if __name__ == "__main__":
    main()
