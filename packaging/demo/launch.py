"""Launches the demo's image and shows what the new instance says of itself.

Runs in the lab's network, with the lab's API in the environment: `kiln lab exec python3 launch.py …`.
Prints the status that the instance sends home and the names it has in Route53, and how long that took;
then terminates it and shows that its names are gone. Exit 1 when any of that did not happen.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3

ZONE = "demo.kiln.internal"
HOME = ("10.0.0.1", 8099)
DEADLINE = 120  # seconds from launch to phone-home

USER_DATA = f"""#cloud-config
hostname: myapp-1
fqdn: myapp-1.{ZONE}
role: myapp
puppet: {{mode: apply, manifest: /etc/kiln/puppet/site.pp}}
route53:
  register: true
  zone: {ZONE}
  name: "{{{{ hostname }}}}.{ZONE}"
  aliases: [myapp.{ZONE}]
phone_home: {{url: "http://{HOME[0]}:{HOME[1]}/", format: json, tries: 3}}
"""


class Home(BaseHTTPRequestHandler):
    """Takes the phone-home of one instance."""

    arrived = threading.Event()
    status = None

    def do_POST(self):  # noqa: N802 (the name is http.server's)
        Home.status = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()
        Home.arrived.set()

    def log_message(self, *_):
        """The demo prints its own story."""


class Server(ThreadingHTTPServer):
    """The place that instances phone home to."""

    def server_bind(self):
        """Binds without asking DNS for this machine's name, which takes seconds where there is none."""
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = self.server_address


def records(route53, zone):
    """The zone's records but those that every zone has."""
    sets = route53.list_resource_record_sets(HostedZoneId=zone)["ResourceRecordSets"]
    return [
        f"  {r['Name']:<32} {r['Type']:<6} {', '.join(v['Value'] for v in r['ResourceRecords'])}"
        for r in sets
        if r["Type"] not in ("SOA", "NS")
    ]


def shown(status):
    """The status as lines: the state, then what each handler did."""
    lines = [f"{status['instance_id']} is {status['state']}"]
    for handler in status["handlers"]:
        took = f"{handler.get('duration_ms') or 0:>6} ms"
        lines.append(f"  {handler['stage']:<6} {handler['name']:<20} {handler['outcome'] or 'running':<8} {took}")
        if handler.get("message") and handler["outcome"] == "failed":
            lines.append(f"         {handler['message']}")
    return "\n".join(lines)


def console(kiln, instance):
    """The last lines of the machine's console."""
    said = subprocess.run([kiln, "lab", "console", instance], capture_output=True, text=True, timeout=20)
    return "\n".join((said.stdout or said.stderr).splitlines()[-40:])


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--image", required=True)
    arguments.add_argument("--kiln", required=True, help="the kiln program, for the console of a machine that fails")
    options = arguments.parse_args()
    ec2 = boto3.client("ec2")
    route53 = boto3.client("route53")
    zone = route53.create_hosted_zone(Name=ZONE + ".", CallerReference=str(time.time()))["HostedZone"]["Id"]

    server = Server(HOME, Home)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    began = time.monotonic()
    run = ec2.run_instances(ImageId=options.image, MinCount=1, MaxCount=1, UserData=USER_DATA)
    instance = run["Instances"][0]["InstanceId"]
    print(f"launched {instance} from {options.image}", flush=True)

    failed = []
    if Home.arrived.wait(DEADLINE):
        print(f"phone-home after {time.monotonic() - began:.1f} s: {shown(Home.status)}")
        if Home.status["state"] != "done":
            failed.append(f"{instance} is {Home.status['state']} and not done")
    else:
        failed.append(f"{instance} did not phone home within {DEADLINE} s")
    names = records(route53, zone)
    print("\n".join(["Route53:", *(names or ["  no records"])]))
    if not names:
        failed.append(f"{instance} registered no name")
    if failed:
        print(f"the console of {instance} ends with:\n{console(options.kiln, instance)}")

    # Terminated is terminated when the machine has powered off, and on its way it takes its names back.
    ec2.terminate_instances(InstanceIds=[instance])
    ec2.get_waiter("instance_terminated").wait(InstanceIds=[instance], WaiterConfig={"Delay": 1, "MaxAttempts": 60})
    left = records(route53, zone)
    print("\n".join(["after termination its names are still there:", *left] if left else
                    ["after termination its names are gone"]), flush=True)
    if left:
        failed.append(f"{instance} left names behind")
    server.shutdown()
    sys.exit("launch: " + "; ".join(failed) if failed else 0)


if __name__ == "__main__":
    main()
