"""Serves moto as a Kiln lab needs it: its instances and images are real machines and trees.

moto answers the API; the lab's driver owns the machines. The two speak JSON lines over one unix
socket. This side sends the whole state of instances and images after every request that changed
it, before the request is answered; the driver sends what became of them. So an instance is
`pending` until its machine runs, `stopping` until it is off, an image `pending` until its tree is
frozen, as on EC2, and nobody has to poll. When the socket ends, the driver is gone: so is this.
"""

import argparse
import base64
import json
import os
import socket
import sys
import threading

# A launch of an image that does not exist is an error, and no image exists but those of the lab.
os.environ["MOTO_ENABLE_AMI_VALIDATION"] = "true"
os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"

from moto.core.responses import ActionResult  # noqa: E402
from moto.core.types import Base64EncodedString  # noqa: E402
from moto.core.utils import utcnow  # noqa: E402
from moto.ec2 import ec2_backends  # noqa: E402
from moto.ec2.exceptions import EC2ClientError  # noqa: E402
from moto.ec2.models.amis import Ami, AmiBackend  # noqa: E402
from moto.ec2.models.instances import Instance, StateReason  # noqa: E402
from moto.ec2.responses.amis import AmisResponse  # noqa: E402
from moto.ec2.responses.general import General  # noqa: E402
from moto.moto_server.werkzeug_app import (  # noqa: E402
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server  # noqa: E402

CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}
# What only one request knows: the models see less of it than the lab needs.
REQUEST = threading.local()


def set_state(instance, name):
    instance._state.name = name
    instance._state.code = CODES[name]


class IncorrectState(EC2ClientError):
    """What EC2 answers to an order that does not fit the state."""

    def __init__(self, code, message):
        super().__init__(code, message)


# Instances take the intermediate states of EC2, and the driver confirms the final ones.

plain_init, plain_start, plain_stop = Instance.__init__, Instance.start, Instance.stop
plain_terminate, plain_reboot = Instance.terminate, Instance.reboot


def init(self, *args, **kwargs):
    plain_init(self, *args, **kwargs)
    images = [image for image in self.ec2_backend.amis.values() if image.id == self.image_id]
    if images and images[0].state != "available":
        raise IncorrectState("InvalidAMIID.Unavailable", f"The image ID '{self.image_id}' is not available")
    self.reboots = 0
    set_state(self, "pending")


def start(self):
    before = self._state.name
    if before in ("stopping", "shutting-down", "terminated"):
        raise IncorrectState(
            "IncorrectInstanceState",
            f"The instance '{self.id}' is not in a state from which it can be started.",
        )
    previous = plain_start(self)
    set_state(self, "running" if before == "running" else "pending")
    return previous


def stop(self):
    before = self._state.name
    if before in ("shutting-down", "terminated"):
        raise IncorrectState(
            "IncorrectInstanceState",
            f"The instance '{self.id}' is not in a state from which it can be stopped.",
        )
    previous = plain_stop(self)
    set_state(self, "stopped" if before == "stopped" else "stopping")
    return previous


def terminate(self):
    before = self._state.name
    if before in ("shutting-down", "terminated"):
        previous = type(self._state)(before, CODES[before])
        return previous
    previous = plain_terminate(self)
    set_state(self, "shutting-down")
    return previous


def reboot(self):
    if self._state.name != "running":
        raise IncorrectState(
            "IncorrectInstanceState",
            f"The instance '{self.id}' is not in a state from which it can be rebooted.",
        )
    plain_reboot(self)
    self.reboots += 1


Instance.__init__, Instance.start, Instance.stop = init, start, stop
Instance.terminate, Instance.reboot = terminate, reboot


# Images wait for their tree, take tags for their snapshot, and stand on ebs, as EC2's do.

plain_create_image, plain_copy_image = AmiBackend.create_image, AmiBackend.copy_image
plain_create_image_response = AmisResponse.create_image


def create_image(self, instance_id, name, description, tag_specifications):
    if any(image.name == name and image.owner_id == self.account_id for image in self.amis.values()):
        raise IncorrectState("InvalidAMIName.Duplicate", f"AMI name {name} is already in use by this account.")
    instance = self.get_instance(instance_id)
    if instance._state.name not in ("running", "stopped", "stopping", "pending"):
        raise IncorrectState(
            "IncorrectInstanceState",
            f"The instance '{instance_id}' is not in a state from which an image can be made.",
        )
    # One that is not stopped yet gives its disk as it is when it has stopped.
    snapshot = [spec for spec in tag_specifications if spec["ResourceType"] == "snapshot"]
    rest = [spec for spec in tag_specifications if spec["ResourceType"] != "snapshot"]
    image = plain_create_image(self, instance_id, name, description, rest)
    for spec in snapshot:
        for tag in spec["Tags"]:
            image.ebs_snapshot.add_tag(tag["Key"], tag["Value"])
    image.root_device_type = "ebs"
    image.root_device_name = instance.root_device_name
    image.hypervisor = "xen"
    image.state = "pending"
    image.source = {"instance": instance_id, "no_reboot": getattr(REQUEST, "no_reboot", False)}
    return image


def copy_image(self, source_image_id, source_region, name=None, description=None):
    source = ec2_backends[self.account_id][source_region].describe_images(ami_ids=[source_image_id])
    if not source or source[0].state != "available":
        raise IncorrectState("InvalidAMIID.Unavailable", f"The image ID '{source_image_id}' is not available")
    image = plain_copy_image(self, source_image_id, source_region, name, description)
    image.root_device_type, image.hypervisor = source[0].root_device_type, source[0].hypervisor
    image.root_device_name = source[0].root_device_name
    image.source = {"image": source_image_id}
    return image


def create_image_response(self):
    REQUEST.no_reboot = bool(self._get_bool_param("NoReboot", False))
    return plain_create_image_response(self)


AmiBackend.create_image, AmiBackend.copy_image = create_image, copy_image
AmisResponse.create_image = create_image_response


def console_output(folder):
    """GetConsoleOutput gives what the machine wrote."""

    def get_console_output(self):
        instance = self.ec2_backend.get_instance(self._get_param("InstanceId"))
        try:
            with open(os.path.join(folder, instance.id), "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 65536))
                text = base64.b64encode(file.read()).decode("ascii")
        except FileNotFoundError:
            text = ""
        return ActionResult(
            {"InstanceId": instance.id, "Timestamp": utcnow(), "Output": Base64EncodedString(text)}
        )

    General.get_console_output = get_console_output


# The state as the driver sees it.


def public_key(backend, name):
    pair = backend.key_pairs.get(name) if name else None
    if pair is None or not pair.material_public:
        return None
    material = pair.material_public
    return (material.decode("utf-8") if isinstance(material, bytes) else material).strip()


def profile_of(backend, instance):
    association = backend.iam_instance_profile_associations.get(instance.id)
    if association is None:
        return None
    profile = association.iam_instance_profile
    return {"arn": profile.arn, "id": profile.id, "role": profile.roles[0].name if profile.roles else None}


def describe_instance(account, region, backend, reservation, instance):
    data = instance.user_data
    return {
        "id": instance.id,
        "state": instance._state.name,
        "image": instance.image_id,
        "account": account,
        "region": region,
        "zone": instance.placement.zone,
        "instance_type": instance.instance_type,
        "architecture": instance.architecture,
        "address": instance.private_ip,
        "mac": instance.nics[0].mac_address,
        "hostname": instance.private_dns_name,
        "public_address": instance.public_ip,
        "public_hostname": instance.public_dns_name,
        "reservation": reservation.id,
        "launch_index": instance.ami_launch_index,
        "launched": instance.launch_time.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "security_groups": [group.name for group in instance.security_groups] or ["default"],
        "vpc": instance.vpc_id,
        "subnet": instance.subnet_id,
        "key_name": instance.key_name,
        "public_key": public_key(backend, instance.key_name),
        "user_data": str(data) if data is not None else None,
        "profile": profile_of(backend, instance),
        "on_shutdown": instance.instance_initiated_shutdown_behavior,
        "metadata": instance.metadata_options.http_endpoint == "enabled",
        "token_required": instance.metadata_options.http_tokens == "required",
        "tags": {tag["key"]: tag["value"] for tag in instance.get_tags()}
        if instance.metadata_options.instance_metadata_tags == "enabled"
        else None,
        "reboots": instance.reboots,
    }


def describe_image(region, image):
    return {
        "id": image.id,
        "name": image.name,
        "owner": image.owner_id,
        "region": region,
        "state": image.state,
        "source": getattr(image, "source", None),
    }


def describe():
    state = {"instances": [], "images": []}
    for account, regions in list(ec2_backends.items()):
        for region, backend in list(regions.items()):
            for reservation in list(backend.reservations.values()):
                for instance in list(reservation.instances):
                    if instance._state.name != "terminated":
                        state["instances"].append(
                            describe_instance(account, region, backend, reservation, instance)
                        )
            for image in list(backend.amis.values()):
                state["images"].append(describe_image(region, image))
    return state


# The driver's orders.


def find_instance(wanted):
    for regions in list(ec2_backends.values()):
        for backend in list(regions.values()):
            instance = backend.get_instance_by_id(wanted)
            if instance is not None:
                return instance
    raise KeyError(f"no instance {wanted}")


def find_image(wanted):
    for regions in list(ec2_backends.values()):
        for backend in list(regions.values()):
            if wanted in backend.amis:
                return backend.amis[wanted]
    raise KeyError(f"no image {wanted}")


def order_instance(order):
    """The machine has come to this state, perhaps by itself and for this reason."""
    instance, state, reason = find_instance(order["instance"]), order["state"], order.get("reason")
    if state == "shutting-down":
        instance.terminate()
    elif state == "running":
        # A stop or terminate that came meanwhile stands.
        if instance._state.name == "pending":
            set_state(instance, "running")
    elif state == "stopped":
        if instance._state.name in ("stopping", "running", "pending"):
            if reason:
                plain_stop(instance)
            set_state(instance, "stopped")
    else:
        set_state(instance, state)
    if reason:
        instance.state_reason = StateReason(reason["message"], reason["code"])
        instance._reason = reason["message"]


def order_image(order):
    image = find_image(order["image"])
    if image.state == "pending":
        image.state = order["state"]


def order_register(order):
    """A tree became an image by import."""
    account, region = order["account"], order["region"]
    backend = ec2_backends[account][region]
    backend.amis[order["register"]] = Ami(
        backend,
        order["register"],
        name=order["name"],
        description=order["description"],
        owner_id=order["owner"],
        public=True,
        virtualization_type="hvm",
        architecture=order["architecture"],
        hypervisor="xen",
        root_device_type="ebs",
        root_device_name="/dev/xvda",
        image_location=f"{order['owner']}/{order['name']}",
        region_name=region + "a",
        tags=order["tags"],
    )


class Driver:
    """The connection to the driver."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(path)
        self.lock = threading.Lock()
        self.last = None

    def send(self, message):
        self.socket.sendall(json.dumps(message).encode("utf-8") + b"\n")

    def publish(self):
        """Sends the state when it is not what was sent last."""
        with self.lock:
            state = describe()
            if state != self.last:
                self.send({"state": state})
                self.last = state

    def obey(self):
        """Follows orders until the driver is gone."""
        for line in self.socket.makefile("r", encoding="utf-8"):
            order = json.loads(line)
            error = None
            try:
                if "register" in order:
                    order_register(order)
                elif "instance" in order:
                    order_instance(order)
                else:
                    order_image(order)
            except Exception as problem:  # noqa: BLE001: every failure belongs to whoever ordered
                error = f"{type(problem).__name__}: {problem}"
            # The state comes before the reply: who has the reply has seen its effect.
            self.publish()
            with self.lock:
                self.send({"reply": order["order"], "error": error})
        os._exit(0)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--driver", required=True, help="unix socket of the driver")
    parser.add_argument("--consoles", required=True, help="folder of console logs")
    parser.add_argument("--account", required=True)
    parser.add_argument("--region", required=True)
    args = parser.parse_args()
    os.environ["MOTO_PORT"] = str(args.port)

    console_output(args.consoles)
    emulator = DomainDispatcherApplication(create_backend_app)
    emulator.debug = True
    # Making the region now takes its time before `up` is done and not from the first request.
    ec2_backends[args.account][args.region].describe_images()
    driver = Driver(args.driver)

    def application(environ, start_response):
        try:
            return emulator(environ, start_response)
        finally:
            driver.publish()

    server = make_server(
        args.address, args.port, application, threaded=True, request_handler=MotoRequestHandler
    )
    driver.publish()
    driver.send({"ready": True})
    threading.Thread(target=driver.obey, daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    sys.exit(main())
