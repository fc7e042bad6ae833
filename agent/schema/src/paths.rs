//! Where the agent's files lie. Every path is absolute; the agent puts its root in front.

/// What is true of this boot alone; gone at the next.
pub const RUN: &str = "/run/kiln";
/// The status of this boot, mode 0644, rewritten atomically at every change.
pub const STATUS: &str = "/run/kiln/status.json";
/// The instance as the datasource described it, mode 0600; later stages read it instead of asking again.
pub const INSTANCE: &str = "/run/kiln/instance.json";
/// What the network's files were made of last, mode 0600: a boot makes them anew when it is something else.
pub const NETWORK_RECORD: &str = "/var/lib/kiln/network";
/// There from when a source has told a configuration of the network until a handler has seen it.
pub const NETWORK_TOLD: &str = "/run/kiln/network";
/// Documents that the user-data includes, as they were got at this boot, mode 0600.
pub const INCLUDES: &str = "/run/kiln/includes.json";
/// Locked by the agent while it boots the machine: a status that says `running` without it is of a dead agent.
pub const LOCK: &str = "/run/kiln/lock";
/// In a bake the final stage waits for this file: the provisioner uploads what puppet and the scripts
/// need after the machine has booted, and `kiln-agent gate` makes the file when it is all there.
pub const PROVISIONED: &str = "/run/kiln/provisioned";
/// What outlives a boot.
pub const STATE: &str = "/var/lib/kiln";
/// One folder an instance id: journal, status, user-data, scripts.
pub const INSTANCES: &str = "/var/lib/kiln/instances";
/// A link to the folder of the instance that booted last.
pub const CURRENT_INSTANCE: &str = "/var/lib/kiln/instance";
/// One plain file a handler, holding `ok`, `failed` or `skipped` and a newline.
pub const DATA: &str = "/var/lib/kiln/data";
/// The journal of the handlers that run once in an image's life.
pub const ONCE_JOURNAL: &str = "/var/lib/kiln/once.jsonl";
/// Seeds of the `nocloud` datasource: a folder with `user-data` and `meta-data`.
pub const SEEDS: &[&str] =
    &["/var/lib/kiln/seed/nocloud", "/var/lib/cloud/seed/nocloud", "/var/lib/cloud/seed/nocloud-net"];
/// The agent's own configuration; keys as in user-data, of the lowest rank.
pub const AGENT_CONFIG: &str = "/etc/kiln/agent.yaml";
/// Drop-ins over [`AGENT_CONFIG`]; a later name wins.
pub const AGENT_CONFIG_DROPINS: &str = "/etc/kiln/agent.d";
/// Folders with a folder `per-boot`, `per-instance` and `per-once` each: executables that run so often.
pub const SCRIPTS: &[&str] = &["/var/lib/cloud/scripts", "/var/lib/kiln/scripts"];
/// When this file exists the agent does nothing and says `disabled`.
pub const DISABLED: &str = "/etc/kiln/disabled";
/// Executables that own the user-data key of their name.
pub const EXTERNAL_HANDLERS: &str = "/usr/lib/kiln/handlers.d";
