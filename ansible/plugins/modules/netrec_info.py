#!/usr/bin/python
# Copyright: the netrec authors
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Tells what there is of a file."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: netrec_info
short_description: Tell what there is of the networks of a file
description:
  - Reads the state of networks, containers and published ports of a netrec file, or the file with all that netrec chooses
    filled in. Changes nothing.
version_added: "0.1.0"
author:
  - The netrec authors (@netrec)
extends_documentation_fragment:
  - netrec.netrec.common
options:
  gather:
    description:
      - V(status) is what there is, with drift, and the connections of each port.
      - V(show) is the file with every default and every chosen name and address.
    type: str
    choices: [status, show]
    default: status
attributes:
  check_mode:
    support: full
    description: It changes nothing.
  diff_mode:
    support: none
    description: It changes nothing.
  platform:
    support: full
    platforms: linux
    description: Where it runs.
seealso:
  - module: netrec.netrec.netrec
"""

EXAMPLES = r"""
---
- name: See what there is
  netrec.netrec.netrec_info:
  register: network

- name: Fail where it is not what the file says
  ansible.builtin.assert:
    that: network.status.matches

- name: Which addresses containers have
  netrec.netrec.netrec_info:
    gather: show
  register: filled_in
"""

RETURN = r"""
status:
  description: What C(netrec status --json) prints, a document as docs/json.md of netrec has it.
  returned: O(gather=status)
  type: dict
  sample: {format_version: "1.1", host: shop, matches: true, networks: [], containers: [], ports: []}
show:
  description: What C(netrec show --json) prints, the file with all that was chosen.
  returned: O(gather=show)
  type: dict
  sample: {networks: {front: {subnet: [10.20.0.0/24]}}}
rc:
  description: The exit status of netrec.
  returned: failure
  type: int
  sample: 3
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.netrec.netrec.plugins.module_utils.netrec import Netrec, common_arguments


def main():
    """Runs the module."""
    arguments = common_arguments()
    arguments["gather"] = {"type": "str", "choices": ["status", "show"], "default": "status"}
    module = AnsibleModule(
        argument_spec=arguments,
        mutually_exclusive=[["config", "content"]],
        supports_check_mode=True,
    )
    what = module.params["gather"]
    document = Netrec(module).document(what)
    module.exit_json(changed=False, **{what: document})


if __name__ == "__main__":
    main()
