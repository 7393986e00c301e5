# Copyright: the netrec authors
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Running netrec once, and reading what it says."""

from __future__ import annotations

import json


def common_arguments():
    """The arguments that all modules have."""
    return {
        "config": {"type": "list", "elements": "path"},
        "content": {"type": "str"},
        "host": {"type": "str"},
        "executable": {"type": "str", "default": "netrec"},
    }


class Netrec:
    """The program, with the file that a task gives it."""

    def __init__(self, module):
        self.module = module
        params = module.params
        self.command = [module.get_bin_path(params["executable"], required=True)]
        self.text = params["content"]
        for path in ["-"] if self.text is not None else params["config"] or []:
            self.command += ["-c", path]
        if params["host"]:
            self.command += ["--host", params["host"]]

    def run(self, *words):
        """Runs it to its end, and yields the exit status and both streams."""
        return self.module.run_command([*self.command, *words], data=self.text or "", binary_data=True)

    def document(self, *words):
        """The JSON document that it prints. The task fails, with netrec's own words, where netrec does."""
        status, out, err = self.run(*words, "--json")
        try:
            document = json.loads(out)
        except ValueError:
            self.fail(status, err.strip() or out.strip())
        if status != 0 or "error" in document:
            said = {"plan": document} if "actions" in document else {}
            self.fail(status, document.get("error") or err.strip(), **said)
        for line in err.splitlines():
            if line.startswith("warning: "):
                self.module.warn(line[len("warning: "):])
        for warning in document.get("warnings", []):
            self.module.warn("{code}: {message}".format(**warning))
        return document

    def fail(self, status, message, **said):
        """Ends the task as failed."""
        message = message[len("error: "):] if message.startswith("error: ") else message
        message = message.rstrip() or "netrec ended with {0} and said nothing".format(status)
        self.module.fail_json(msg=message, rc=status, **said)
