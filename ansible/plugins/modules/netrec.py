#!/usr/bin/python
# Copyright: the netrec authors
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Makes the networks of a host what a file says."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: netrec
short_description: Make the container networks of a host what a file says
description:
  - Plans the difference between a netrec file and the kernel, and applies it, undoing all of it when a part fails.
  - Each task starts netrec once. What it says is what the task returns; the plan is the task's diff.
version_added: "0.1.0"
author:
  - The netrec authors (@netrec)
extends_documentation_fragment:
  - netrec.netrec.common
options:
  state:
    description:
      - V(present) makes the kernel what the file says, which removes whatever netrec made and the file no longer names.
      - V(absent) removes all that netrec made on the host; it needs no file.
      - V(planned) only looks, as V(present) does in check mode, so that the result tells of drift.
      - V(confirmed) keeps what a task with O(confirm_timeout) did; it fails where nothing waits, or where it is too late.
    type: str
    choices: [present, absent, planned, confirmed]
    default: present
  target:
    description:
      - Only what belongs to these owners, such as V(containers.web), and what that needs.
      - Not with O(state=absent) or O(state=confirmed).
    type: list
    elements: str
  confirm_timeout:
    description:
      - Take what was done back unless it is confirmed within this time, such as V(60s) or V(5m).
      - Meant for changes that could cut off the way to the host. Reset the connection, then confirm it by a task with
        O(state=confirmed), which only gets there when there can be a new connection.
      - Nothing waits to be confirmed when nothing was changed. Only with O(state=present).
    type: str
  insecure:
    description:
      - Go on when others than root and the user who runs netrec can write the file. Only with O(state=present).
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description: The plan is made and nothing is written. O(state=confirmed) is skipped.
  diff_mode:
    support: full
    description: The plan as text.
  platform:
    support: full
    platforms: linux
    description: Where it runs.
notes:
  - A file that others can write is refused, as are files in folders that others can write.
seealso:
  - module: netrec.netrec.netrec_info
"""

EXAMPLES = r"""
---
- name: Make the networks what /etc/netrec says
  netrec.netrec.netrec:

- name: The same of a file that stands in the playbook
  netrec.netrec.netrec:
    content: |
      [networks.front]
      subnet = "10.20.0.0/24"

      [containers.web]
      networks = ["front"]
      ports = ["8080:80"]

- name: Tell of drift, and change nothing
  netrec.netrec.netrec:
    state: planned
  register: drift

- name: Apply, and take it back in a minute unless the host can still be reached
  netrec.netrec.netrec:
    config: /etc/netrec/netrec.toml
    confirm_timeout: 60s
  register: network

- name: Forget the connection, which may have lived on only as an established one
  ansible.builtin.meta: reset_connection

- name: Confirm it by a new one
  netrec.netrec.netrec:
    state: confirmed
  when: network.waits

- name: Remove all that netrec made
  netrec.netrec.netrec:
    state: absent
"""

RETURN = r"""
plan:
  description: What netrec printed, a document as docs/json.md of netrec has it; without its text, which is the diff.
  returned: always but with O(state=confirmed); when the task fails, where there was a plan
  type: dict
  sample:
    format_version: "1.1"
    host: shop
    changed: true
    summary: {create: 14, update: 0, replace: 0, delete: 0}
    actions: []
    warnings: []
summary:
  description: How many objects are created, updated, replaced and deleted.
  returned: success, but with O(state=confirmed)
  type: dict
  sample: {create: 14, update: 0, replace: 0, delete: 0}
waits:
  description: Whether what was done is taken back unless it is confirmed.
  returned: success
  type: bool
rc:
  description:
    - The exit status of netrec. 1 is a failure, 3 a file that is not valid, 4 one that was undone, 5 another netrec at work.
  returned: failure
  type: int
  sample: 3
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.netrec.netrec.plugins.module_utils.netrec import Netrec, common_arguments


def changes(module):
    """Plans, and carries the plan out unless it is only to be looked at."""
    params = module.params
    absent = params["state"] == "absent"
    look = params["state"] == "planned" or module.check_mode
    words = ["plan"] if look else ["destroy", "-y"] if absent else ["apply", "-y"]
    if look and absent:
        words.append("--destroy")
    for target in params["target"] or []:
        words += ["--target", target]
    if not look and not absent:
        if params["confirm_timeout"]:
            words += ["--confirm", params["confirm_timeout"]]
        if params["insecure"]:
            words.append("--insecure")
    document = Netrec(module).document(*words)
    text = document.pop("diff")
    result = {
        "changed": document["changed"],
        "summary": document["summary"],
        "waits": bool(not look and params["confirm_timeout"] and document["changed"]),
        "plan": document,
    }
    if document["changed"]:
        result["diff"] = {"prepared": text}
    return result


def confirm(module):
    """Keeps what was done."""
    if module.check_mode:
        module.exit_json(changed=False, waits=False, skipped=True, msg="in check mode there is nothing to confirm")
    netrec = Netrec(module)
    status, out, err = netrec.run("confirm")
    if status != 0:
        netrec.fail(status, err or out)
    return {"changed": True, "waits": False, "msg": err.strip()}


def main():
    """Runs the module."""
    arguments = common_arguments()
    arguments.update(
        state={"type": "str", "choices": ["present", "absent", "planned", "confirmed"], "default": "present"},
        target={"type": "list", "elements": "str"},
        confirm_timeout={"type": "str"},
        insecure={"type": "bool", "default": False},
    )
    module = AnsibleModule(
        argument_spec=arguments,
        mutually_exclusive=[["config", "content"]],
        supports_check_mode=True,
    )
    state = module.params["state"]
    only = {"confirm_timeout": ["present"], "insecure": ["present"], "target": ["present", "planned"]}
    for name, states in only.items():
        if module.params[name] and state not in states:
            module.fail_json(msg="{0} is not for state={1}".format(name, state))
    module.exit_json(**(confirm(module) if state == "confirmed" else changes(module)))


if __name__ == "__main__":
    main()
