#!/usr/bin/env python3
"""A network plugin for Docker and for netrec: bridges and addresses, in one file of Python's standard library.

    plugin.py /run/docker/plugins/example.sock

A plugin is an HTTP server on a Unix socket. Each call is a POST to /INTERFACE.METHOD with a JSON object, and is answered
by another one; one with the key "Err" (from an IPAM driver "Error") says that it did not work. This one implements both
interfaces: NetworkDriver, which makes networks and puts containers on them, and IpamDriver, which gives addresses. A file
may use one without the other.

It makes a bridge for each network and a veth pair for each endpoint. Whoever calls moves one end of the pair into the
container, gives it its name and its addresses, and gives it back before the endpoint is deleted; so nothing here ever
enters a container's namespace. Devices are made with ip(8).

    --log FILE      write each call as a line: METHOD and the body
    --state FILE    remember networks, endpoints and addresses here; without, a restart forgets them
"""

import argparse
import http.server
import ipaddress
import json
import os
import socketserver
import subprocess


class Refused(Exception):
    """The answer to a call that cannot be done; its text is shown to a person."""


def ip(*words, may_fail=False):
    """Runs ip(8)."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode != 0 and not may_fail:
        raise Refused(f"ip {' '.join(words)}: {done.stderr.strip()}")


class Network:
    """The methods of NetworkDriver. `self.networks` and `self.endpoints` are what it remembers, by the caller's ids."""

    def __init__(self, memory):
        self.networks = memory.setdefault("networks", {})
        self.endpoints = memory.setdefault("endpoints", {})

    def GetCapabilities(self, _):
        """This host alone has its networks. A driver of scope "global" is also asked to AllocateNetwork."""
        return {"Scope": "local", "ConnectivityScope": "local"}

    def CreateNetwork(self, call):
        """Makes a bridge with the gateways' addresses. The options of the file are under `...generic`."""
        network, options = call["NetworkID"], call["Options"].get("com.docker.network.generic") or {}
        if network in self.networks:
            raise Refused(f"network {network} exists")
        unknown = set(options) - {"bridge", "mtu", "routes"}
        if unknown:
            raise Refused(f"unknown options: {', '.join(sorted(unknown))}")
        bridge = options.get("bridge") or "pb-" + network[:12]
        ip("link", "del", bridge, may_fail=True)  # of a life that it has forgotten
        ip("link", "add", bridge, "type", "bridge")
        gateways = [data["Gateway"] for data in call["IPv4Data"] + call["IPv6Data"] if data.get("Gateway")]
        try:
            for gateway in gateways:
                # nodad: an IPv6 address that can be used at once
                ip("address", "add", gateway, "dev", bridge, *["nodad"] * (":" in gateway))
            ip("link", "set", bridge, "up")
        except Refused:
            ip("link", "del", bridge, may_fail=True)
            raise
        routes = [route.split(" via ") for route in options.get("routes", "").split(",") if route]
        self.networks[network] = {
            "bridge": bridge,
            "mtu": options.get("mtu", "1500"),
            "gateways": [gateway.split("/")[0] for gateway in gateways],
            # RouteType 0 leads to a next hop, 1 to whatever is on the link.
            "routes": [
                {"Destination": to, "RouteType": 0, "NextHop": via[0]} if via
                else {"Destination": to, "RouteType": 1, "NextHop": ""}
                for to, *via in routes
            ],
        }

    def DeleteNetwork(self, call):
        """Removes the bridge."""
        network = self.known(self.networks, call["NetworkID"], "network")
        if any(endpoint["network"] == call["NetworkID"] for endpoint in self.endpoints.values()):
            raise Refused("the network has endpoints")
        ip("link", "del", network["bridge"], may_fail=True)
        del self.networks[call["NetworkID"]]

    def CreateEndpoint(self, call):
        """Makes a pair of devices. What the caller left empty in `Interface` may be chosen here, and nothing else."""
        network = self.known(self.networks, call["NetworkID"], "network")
        endpoint = call["EndpointID"]
        if endpoint in self.endpoints:
            raise Refused(f"endpoint {endpoint} exists")
        near, far = "pv-" + endpoint[:12], "pc-" + endpoint[:12]
        ip("link", "del", near, may_fail=True)
        ip("link", "add", near, "mtu", network["mtu"], "type", "veth", "peer", "name", far, "mtu", network["mtu"])
        ip("link", "set", near, "master", network["bridge"], "up")
        self.endpoints[endpoint] = {"network": call["NetworkID"], "near": near, "far": far}
        if call["Interface"]["MacAddress"]:
            return {"Interface": {}}
        mac = "02:" + ":".join(endpoint[i:i + 2] for i in range(0, 10, 2))
        return {"Interface": {"MacAddress": mac}}

    def EndpointOperInfo(self, call):
        """Says what a person may want to know. An error says that the endpoint is not known."""
        endpoint = self.known(self.endpoints, call["EndpointID"], "endpoint")
        return {"Value": {"device": endpoint["near"]}}

    def Join(self, call):
        """Says which device of the host is the container's from now on, and where its routes lead."""
        endpoint = self.known(self.endpoints, call["EndpointID"], "endpoint")
        network = self.known(self.networks, call["NetworkID"], "network")
        gateway = {":" in address: address for address in network["gateways"]}
        return {
            "InterfaceName": {"SrcName": endpoint["far"], "DstPrefix": "eth"},
            "Gateway": gateway.get(False, ""),
            "GatewayIPv6": gateway.get(True, ""),
            "StaticRoutes": network["routes"],
            "DisableGatewayService": True,
        }

    def Leave(self, call):
        """The container is about to go, or gone."""
        self.known(self.endpoints, call["EndpointID"], "endpoint")

    def DeleteEndpoint(self, call):
        """Removes the pair, wherever its far end is."""
        endpoint = self.known(self.endpoints, call["EndpointID"], "endpoint")
        ip("link", "del", endpoint["near"], may_fail=True)
        del self.endpoints[call["EndpointID"]]

    def ProgramExternalConnectivity(self, call):
        """The container's way out is by this endpoint: the place for masquerading and published ports."""
        self.known(self.endpoints, call["EndpointID"], "endpoint")["external"] = True

    def RevokeExternalConnectivity(self, call):
        """It is not any more."""
        self.known(self.endpoints, call["EndpointID"], "endpoint").pop("external", None)

    @staticmethod
    def known(things, name, what):
        """One of the things remembered."""
        if name not in things:
            raise Refused(f"no {what} {name}")
        return things[name]


class Ipam:
    """The methods of IpamDriver. A pool is a subnet with the addresses that are given."""

    def __init__(self, memory, remembers):
        self.pools = memory.setdefault("pools", {})
        self.remembers = remembers

    def GetCapabilities(self, _):
        """Addresses do not depend on Ethernet addresses. One that forgets is told again what it gave."""
        return {"RequiresMACAddress": False, "RequiresRequestReplay": not self.remembers}

    def GetDefaultAddressSpaces(self, _):
        """Names for what two pools of one subnet may not both be in."""
        return {"LocalDefaultAddressSpace": "example", "GlobalDefaultAddressSpace": "example"}

    def RequestPool(self, call):
        """Reserves a subnet. Whoever asks again before there is an address of it has not heard the answer."""
        if not call["Pool"]:
            raise Refused("name the subnet")
        wanted = ipaddress.ip_network(call["Pool"])
        name = f"example/{wanted}"
        if self.pools.get(name, {"given": True})["given"] == []:
            return {"PoolID": name, "Pool": str(wanted), "Data": {}}
        for pool in self.pools.values():
            other = ipaddress.ip_network(pool["subnet"])
            if other.version == wanted.version and other.overlaps(wanted):
                raise Refused(f"{wanted} overlaps {other}")
        self.pools[name] = {"subnet": str(wanted), "range": call["SubPool"] or str(wanted), "given": []}
        return {"PoolID": name, "Pool": str(wanted), "Data": {}}

    def ReleasePool(self, call):
        """Gives it back."""
        self.pool(call)
        del self.pools[call["PoolID"]]

    def RequestAddress(self, call):
        """Gives an address: the one that is asked for, or the lowest that is free, of the range but for a gateway."""
        pool = self.pool(call)
        subnet, given = ipaddress.ip_network(pool["subnet"]), pool["given"]
        is_gateway = (call["Options"] or {}).get("RequestAddressType") == "com.docker.network.gateway"
        # The first and the last one of a subnet are nobody's.
        usable = (a for a in (subnet if is_gateway else ipaddress.ip_network(pool["range"]))
                  if a != subnet[0] and (a.version == 6 or a != subnet[-1]) and str(a) not in given)
        address = call["Address"] or str(next(usable, ""))
        if not address or address in given:
            raise Refused(f"{address or 'no address'} is {'taken' if address else 'left'}")
        given.append(address)
        return {"Address": f"{address}/{subnet.prefixlen}", "Data": {}}

    def ReleaseAddress(self, call):
        """Gives it back."""
        given = self.pool(call)["given"]
        if call["Address"] in given:
            given.remove(call["Address"])

    def pool(self, call):
        """The pool that a call is about."""
        if call["PoolID"] not in self.pools:
            raise Refused(f"no pool {call['PoolID']}")
        return self.pools[call["PoolID"]]


class Handler(http.server.BaseHTTPRequestHandler):
    """Takes a call, finds its method, and answers."""

    def do_POST(self):
        """One call."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        call = json.loads(body or "{}")
        name = self.path.lstrip("/")
        self.server.note(name, call)
        interface, _, method = name.partition(".")
        if name == "Plugin.Activate":
            return self.answer(200, {"Implements": list(self.server.interfaces)})
        known = getattr(self.server.interfaces.get(interface), method, None)
        if known is None or not method[:1].isupper():
            return self.answer(404, {"Err": "no such call"})
        try:
            answer = known(call) or {}
        except Refused as error:
            answer = {"Err" if interface == "NetworkDriver" else "Error": str(error)}
        self.server.remember()
        return self.answer(200, answer)

    def answer(self, status, answer):
        """Sends a JSON object."""
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.docker.plugins.v1.2+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self):
        """A Unix socket's caller has none."""
        return "caller"

    def log_message(self, *_):
        """Nothing: `--log` has the calls."""


class Server(socketserver.UnixStreamServer):
    """The socket, and what is remembered. Calls are taken one by one."""

    def __init__(self, options):
        self.options = options
        self.memory = {}
        if options.state and os.path.exists(options.state):
            with open(options.state, encoding="utf-8") as file:
                self.memory = json.load(file)
        self.interfaces = {"NetworkDriver": Network(self.memory), "IpamDriver": Ipam(self.memory, bool(options.state))}
        os.makedirs(os.path.dirname(options.socket), exist_ok=True)
        if os.path.exists(options.socket):
            os.unlink(options.socket)  # of one that was killed
        super().__init__(options.socket, Handler)

    def note(self, name, call):
        """Writes a call down."""
        if self.options.log:
            with open(self.options.log, "a", encoding="utf-8") as file:
                file.write(f"{name} {json.dumps(call)}\n")

    def remember(self):
        """Writes the memory down, under another name first: whole or not at all."""
        if self.options.state:
            with open(self.options.state + ".new", "w", encoding="utf-8") as file:
                json.dump(self.memory, file)
            os.replace(self.options.state + ".new", self.options.state)


def main():
    """Serves until it is killed."""
    parser = argparse.ArgumentParser(description="A network plugin for Docker and for netrec.")
    parser.add_argument("socket", help="where to listen: /run/docker/plugins/NAME.sock")
    parser.add_argument("--log", metavar="FILE", help="write each call as a line")
    parser.add_argument("--state", metavar="FILE", help="remember everything here")
    Server(parser.parse_args()).serve_forever()


if __name__ == "__main__":
    main()
