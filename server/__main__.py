"""`python -m server`: the same as `starling serve`."""

import sys

from server.serve import serve_command

if __name__ == "__main__":
    sys.exit(serve_command(sys.argv[1:]))
