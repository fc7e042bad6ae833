"""Launches the demo's image and shows what the new instance says of itself.

Runs in the lab's network. Prints the status that the instance sends home, the names it has in
Route53, and how long it took; then stops it and shows that its names are gone.
"""

import argparse
import json
import socketserver
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler

import boto3

ZONE = "demo.kiln.internal."
PORT = 8099
DEADLINE = 120  # seconds from launch to phone-home

USER_DATA = """#cloud-config
hostname: myapp-1
fqdn: myapp-1.demo.kiln.internal
role: myapp
puppet: {mode: apply, manifest: /etc/kiln/puppet/site.pp}
route53:
  register: true
  zone: demo.kiln.internal
  name: "{{ hostname }}.demo.kiln.internal"
  aliases: ["myapp.demo.kiln.internal"]
phone_home: {url: "http://10.0.0.1:8099/", format: json, tries: 3}
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


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True


def records(route53, zone):
    """The zone's records but those that every zone has."""
    sets = route53.list_resource_record_sets(HostedZoneId=zone)["ResourceRecordSets"]
    return [
        f"  {r['Name']:<32} {r['Type']:<6} {', '.join(v['Value'] for v in r['ResourceRecords'])}"
        for r in sets
        if r["Type"] not in ("SOA", "NS")
    ]


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--endpoint", required=True)
    arguments.add_argument("--region", required=True)
    arguments.add_argument("--image", required=True)
    options = arguments.parse_args()
    aws = {
        "endpoint_url": options.endpoint,
        "region_name": options.region,
        "aws_access_key_id": "lab",
        "aws_secret_access_key": "lab",
    }
    ec2, route53 = boto3.client("ec2", **aws), boto3.client("route53", **aws)
    zone = route53.create_hosted_zone(Name=ZONE, CallerReference=str(time.time()))["HostedZone"]["Id"]

    server = Server(("10.0.0.1", PORT), Home)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    began = time.monotonic()
    run = ec2.run_instances(ImageId=options.image, MinCount=1, MaxCount=1, UserData=USER_DATA)
    instance = run["Instances"][0]["InstanceId"]
    print(f"launched {instance} from {options.image}")
    if not Home.arrived.wait(DEADLINE):
        ec2.terminate_instances(InstanceIds=[instance])
        sys.exit(f"{instance} did not phone home within {DEADLINE} s; its console: kiln lab console {instance}")
    status = Home.status
    print(f"phone-home after {time.monotonic() - began:.1f} s: {status['instance_id']} is {status['state']}")
    for handler in status["handlers"]:
        print(f"  {handler['stage']:<6} {handler['name']:<16} {handler['outcome']:<8} {handler['duration_ms']:>6} ms")
    print("Route53:")
    print("\n".join(records(route53, zone)) or "  no records")

    ec2.terminate_instances(InstanceIds=[instance])
    ec2.get_waiter("instance_terminated").wait(InstanceIds=[instance], WaiterConfig={"Delay": 1, "MaxAttempts": 60})
    left = records(route53, zone)
    print("after termination its names are " + ("still there:\n" + "\n".join(left) if left else "gone"))
    server.shutdown()
    if status["state"] != "done" or left:
        sys.exit(1)


if __name__ == "__main__":
    main()
