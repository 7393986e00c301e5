"""In the place of the script of that name, which ansible-test would fetch from a host that is no registry of packages."""

import subprocess
import sys

subprocess.check_call([sys.executable, "-m", "ensurepip"])
packages = [word for word in sys.argv[1:] if word not in ("--no-setuptools", "--no-wheel")]
sys.exit(subprocess.call([sys.executable, "-m", "pip", "install", *packages]))
