# Copyright: the netrec authors
# SPDX-License-Identifier: MIT OR Apache-2.0
"""What the modules of this collection have in common, for their documentation."""

from __future__ import annotations


class ModuleDocFragment:
    """Which file, and which program."""

    DOCUMENTATION = r"""
options:
  config:
    description:
      - Files and folders on the managed host, as netrec takes them by C(-c).
      - Without O(config) and O(content) it is C(/etc/netrec/netrec.toml) and C(/etc/netrec/netrec.d/*.toml).
    type: list
    elements: path
  content:
    description:
      - The text of the file itself, which then need not be on the managed host.
      - Mutually exclusive with O(config).
    type: str
  host:
    description:
      - The name of the managed host in a file of several hosts. Without it, its host name.
    type: str
  executable:
    description:
      - The program, by its name or its path.
    type: str
    default: netrec
requirements:
  - The program C(netrec) on the managed host.
  - Root, but for looking at what there is.
"""
