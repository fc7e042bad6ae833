//! What the user-data says of users and groups, and what it comes to.

use std::borrow::Cow;
use std::fmt;

use kiln_schema::yaml::{self, Each, scalar};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::keys::{Date, Days, Groups, Password, Redirect, Unsupported, names, rules, split, words};
use crate::handlers::ssh_import_id::KeyId;
use crate::system::System;

/// Keys of users and groups.
#[derive(Default, serde::Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// The users: each a name, a mapping, or `default`. Without this key there is the default user
    /// alone; with an empty list there is none. A key with `_` may have `-` in its place.
    #[serde(deserialize_with = "yaml::tolerant")]
    pub users: Option<Each<User>>,
    /// Groups to make: each a name, or a name with its members.
    #[serde(deserialize_with = "yaml::tolerant")]
    pub groups: Each<Groups>,
    /// What `default` means on this image, where it differs from what the distribution has.
    pub default_user: UserKeys,
    /// An older spelling: changes to the default user, or its name alone.
    pub user: Option<User>,
}

/// One user.
#[derive(Clone, Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(default)]
pub struct UserKeys {
    /// Login name; `default` means the image's default user.
    pub name: String,
    /// The person's name, or what the account is for.
    pub gecos: Option<String>,
    /// Home folder, where it is not `/home/NAME`.
    pub homedir: Option<String>,
    /// Primary group, where it is not one of the user's own.
    #[serde(alias = "primary-group")]
    pub primary_group: Option<String>,
    /// Further groups: a list, or a text with commas. Those that lack are made.
    #[serde(deserialize_with = "names")]
    #[schemars(schema_with = "words")]
    pub groups: Option<Vec<String>>,
    /// Do not make groups that lack, if false.
    #[serde(alias = "create-groups")]
    pub create_groups: Option<bool>,
    /// Login shell.
    pub shell: Option<String>,
    /// User id.
    #[serde(deserialize_with = "yaml::tolerant")]
    pub uid: Option<u32>,
    /// A system account: a low id and no home folder.
    pub system: bool,
    /// Make no home folder.
    #[serde(alias = "no-create-home")]
    pub no_create_home: bool,
    /// Make no group of the user's own.
    #[serde(alias = "no-user-group")]
    pub no_user_group: bool,
    /// Keep the account out of lastlog and faillog.
    #[serde(alias = "no-log-init")]
    pub no_log_init: bool,
    /// Lock the password; true if not given.
    #[serde(alias = "lock-passwd")]
    pub lock_passwd: Option<bool>,
    /// Sudo rules without the name, such as `ALL=(ALL) NOPASSWD:ALL`; false takes those of this agent away.
    #[serde(deserialize_with = "rules")]
    #[schemars(schema_with = "words")]
    pub sudo: Option<Vec<String>>,
    /// Public keys that may log in as this user.
    #[serde(alias = "ssh-authorized-keys")]
    #[schemars(schema_with = "words")]
    pub ssh_authorized_keys: Option<Vec<String>>,
    /// The hash of a password, for a user who is made here.
    pub passwd: Password,
    /// The hash of a password, also for a user whom the image has.
    #[serde(alias = "hashed-passwd")]
    pub hashed_passwd: Password,
    /// A password, also for a user whom the image has. Everybody who may read the user-data knows it.
    #[serde(alias = "plain-text-passwd")]
    pub plain_text_passwd: Password,
    /// The day on which the account of a user who is made here closes, as `2032-09-01`.
    pub expiredate: Option<Date>,
    /// Days after the end of a password until the account of a user who is made here closes.
    pub inactive: Days,
    /// SELinux user of a user who is made here.
    #[serde(alias = "selinux-user")]
    pub selinux_user: Option<String>,
    /// Refuse logins as this user with the instance's keys, and tell to log in as the default user.
    #[serde(alias = "ssh-redirect-user")]
    pub ssh_redirect_user: Redirect,
    /// Rules for doas, each with the user's name, such as `permit nopass bob`.
    #[schemars(schema_with = "words")]
    pub doas: Option<Vec<String>>,
    /// Whose keys may log in as this user: `gh:NAME` of GitHub, `lp:NAME` of Launchpad.
    #[serde(alias = "ssh-import-id")]
    pub ssh_import_id: Each<KeyId>,
    /// Not done by this version.
    snapuser: Unsupported,
}

/// A user in a list: a mapping, or a name alone.
#[derive(Clone, Debug)]
pub struct User(pub UserKeys);

impl<'de> Deserialize<'de> for User {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrKeys;
        impl<'de> Visitor<'de> for NameOrKeys {
            type Value = User;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a name or a mapping")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<User, E> {
                Ok(User(UserKeys { name: name.to_owned(), ..UserKeys::default() }))
            }

            /// Names in a list of their own are several users.
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<User, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = seq.next_element::<String>()? {
                    names.push(name);
                }
                self.visit_str(&names.join(","))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<User, A::Error> {
                let keys = <UserKeys as Deserialize>::deserialize(MapAccessDeserializer::new(map))?;
                if keys.name.trim().is_empty() { Err(de::Error::missing_field("name")) } else { Ok(User(keys)) }
            }
        }
        deserializer.deserialize_struct(yaml::STRUCT_OR_LIST, yaml::fields_of::<UserKeys>(), NameOrKeys)
    }
}

impl User {
    /// Whether `default` is its name, or one of its names.
    fn is_default(&self) -> bool {
        split(&self.0.name).any(|name| name == "default")
    }
}

impl JsonSchema for User {
    fn schema_name() -> Cow<'static, str> {
        "User".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let keys = generator.subschema_for::<UserKeys>();
        json_schema!({"description": "A name, or a mapping", "anyOf": [{"type": "string"}, keys]})
    }
}

impl UserKeys {
    /// The keys that are given and that this version does not do.
    pub fn unsupported(&self) -> Vec<&'static str> {
        let keys = [("snapuser", self.snapuser)];
        keys.into_iter().filter(|(_, given)| given.0).map(|(key, _)| key).collect()
    }

    /// Names of the further groups.
    pub fn group_names(&self) -> Vec<String> {
        self.groups.iter().flatten().flat_map(|names| split(names)).collect()
    }

    /// The sudo rules; none if the key is not there, empty if it is false.
    pub fn sudo_rules(&self) -> Option<Vec<&str>> {
        let rules = self.sudo.as_ref()?;
        if let [word] = &rules[..]
            && scalar::boolean(word) == Some(false)
        {
            return Some(Vec::new());
        }
        Some(rules.iter().flat_map(|rule| rule.lines()).map(str::trim).filter(|rule| !rule.is_empty()).collect())
    }

    /// These keys over those of lower rank.
    fn over(self, low: UserKeys) -> UserKeys {
        let secret = |high: Password, low: Password| if high.given().is_some() { high } else { low };
        let either = |high: Unsupported, low: Unsupported| Unsupported(high.0 || low.0);
        UserKeys {
            name: if self.name.is_empty() { low.name } else { self.name },
            gecos: self.gecos.or(low.gecos),
            homedir: self.homedir.or(low.homedir),
            primary_group: self.primary_group.or(low.primary_group),
            groups: self.groups.or(low.groups),
            create_groups: self.create_groups.or(low.create_groups),
            shell: self.shell.or(low.shell),
            uid: self.uid.or(low.uid),
            system: self.system || low.system,
            no_create_home: self.no_create_home || low.no_create_home,
            no_user_group: self.no_user_group || low.no_user_group,
            no_log_init: self.no_log_init || low.no_log_init,
            lock_passwd: self.lock_passwd.or(low.lock_passwd),
            sudo: self.sudo.or(low.sudo),
            ssh_authorized_keys: self.ssh_authorized_keys.or(low.ssh_authorized_keys),
            passwd: secret(self.passwd, low.passwd),
            hashed_passwd: secret(self.hashed_passwd, low.hashed_passwd),
            plain_text_passwd: secret(self.plain_text_passwd, low.plain_text_passwd),
            expiredate: self.expiredate.or(low.expiredate),
            inactive: Days(self.inactive.0.or(low.inactive.0)),
            selinux_user: self.selinux_user.or(low.selinux_user),
            ssh_redirect_user: Redirect(self.ssh_redirect_user.0 || low.ssh_redirect_user.0),
            doas: self.doas.or(low.doas),
            ssh_import_id: if self.ssh_import_id.is_empty() { low.ssh_import_id } else { self.ssh_import_id },
            snapuser: either(self.snapuser, low.snapuser),
        }
    }
}

impl Config {
    /// What `default` means: the older key over the image's over what the distribution has.
    pub fn default_user(&self, system: &System) -> UserKeys {
        let high = self.user.as_ref().map(|user| user.0.clone()).unwrap_or_default();
        high.over(self.default_user.clone()).over(built_in(system))
    }

    /// The name of the default user, if there is to be one.
    pub fn default_name(&self, system: &System) -> Option<String> {
        let listed = self.users.as_ref().is_none_or(|users| users.iter().any(User::is_default));
        (listed || self.user.is_some()).then(|| self.default_user(system).name)
    }

    /// The users to make, with what `default` means put in.
    ///
    /// The default user comes last, as cloud-init makes it: ids are given in this order.
    pub fn all_users(&self, system: &System) -> Vec<UserKeys> {
        let default = User(UserKeys { name: "default".to_owned(), ..UserKeys::default() });
        let mut listed: Vec<User> = self.users.as_ref().map_or_else(|| vec![default.clone()], |users| users.0.clone());
        if self.user.is_some() && !listed.iter().any(User::is_default) {
            listed.push(default);
        }
        let each = listed.iter().flat_map(|User(keys)| split(&keys.name).map(|name| UserKeys { name, ..keys.clone() }));
        let (defaults, mut users): (Vec<_>, Vec<_>) = each.partition(|keys| keys.name == "default");
        let named = |keys| UserKeys { name: String::new(), ..keys }.over(self.default_user(system));
        users.extend(defaults.into_iter().map(named));
        users
    }
}

/// The default user where the image does not say otherwise: with the name that the distribution's own
/// images have, and those of the usual groups that exist.
fn built_in(system: &System) -> UserKeys {
    let distro = system.distro();
    let name = match distro.id.as_str() {
        "debian" => "admin",
        "ubuntu" => "ubuntu",
        _ if distro.is_red_hat() => "ec2-user",
        _ => "kiln",
    };
    let groups = system.existing_groups(&["adm", "sudo", "wheel", "systemd-journal"]);
    let shell = ["/bin/bash", "/bin/sh"].into_iter().find(|shell| system.exists(shell)).unwrap_or("/bin/sh");
    UserKeys {
        name: name.to_owned(),
        gecos: Some("Default user".to_owned()),
        groups: Some(groups),
        shell: Some(shell.to_owned()),
        lock_passwd: Some(true),
        sudo: Some(vec!["ALL=(ALL) NOPASSWD:ALL".to_owned()]),
        ..UserKeys::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Context;
    use crate::handlers::read_keys;
    use crate::system::FileOptions;

    fn read(user_data: &str) -> (Config, Vec<String>, System, tempfile::TempDir) {
        let tree = tempfile::tempdir().unwrap();
        let context = Context::for_test(tree.path(), user_data);
        context.system.write("/etc/os-release", "ID=debian\n", FileOptions::default()).unwrap();
        context.system.write("/etc/group", "sudo:x:27:\n", FileOptions::default()).unwrap();
        let checked = read_keys::<Config>(&context.config);
        let messages = checked.diagnostics.iter().map(|d| format!("{}: {}", d.path, d.message)).collect();
        (checked.value.unwrap_or_default(), messages, context.system.clone(), tree)
    }

    fn names(user_data: &str) -> (Vec<String>, Option<String>) {
        let (config, _, system, _tree) = read(user_data);
        let users = config.all_users(&system).into_iter().map(|user| user.name).collect();
        (users, config.default_name(&system))
    }

    #[test]
    fn the_default_user_is_there_unless_a_list_leaves_it_out() {
        for (user_data, users, default) in [
            ("{}", vec!["admin"], Some("admin")),
            ("users:", vec!["admin"], Some("admin")),
            ("users: []", vec![], None),
            ("users: [default]", vec!["admin"], Some("admin")),
            ("users: [bob]", vec!["bob"], None),
            ("users: [{name: default, shell: /bin/zsh}, 'joe, jane']", vec!["joe", "jane", "admin"], Some("admin")),
            ("users: {name: bob}", vec!["bob"], None),
            ("default_user: {name: ops}", vec!["ops"], Some("ops")),
            ("{user: ops, users: [bob]}", vec!["bob", "ops"], Some("ops")),
            ("users: [007]", vec!["007"], None),
            ("users: [default, [aaa, bbb]]", vec!["aaa", "bbb", "admin"], Some("admin")),
            ("users: [[aaa, default]]", vec!["aaa", "admin"], Some("admin")),
        ] {
            let users = users.into_iter().map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(names(user_data), (users, default.map(str::to_owned)), "{user_data}");
        }
    }

    #[test]
    fn the_name_of_the_default_user_is_the_distributions() {
        for (os_release, name) in [
            ("ID=debian", "admin"),
            ("ID=ubuntu\nID_LIKE=debian", "ubuntu"),
            ("ID=amzn\nID_LIKE=fedora", "ec2-user"),
            ("ID=rocky\nID_LIKE=\"rhel centos fedora\"", "ec2-user"),
            ("ID=alpine", "kiln"),
            ("", "kiln"),
        ] {
            let (config, _, system, _tree) = read("{}");
            system.write("/etc/os-release", os_release, FileOptions::default()).unwrap();
            assert_eq!(config.default_user(&system).name, name, "{os_release}");
        }
    }

    #[test]
    fn the_default_user_takes_each_key_from_the_highest_rank() {
        let user_data =
            "{default_user: {name: ops, shell: /bin/dash, sudo: false}, users: [{name: default, shell: /bin/zsh}]}";
        let (config, messages, system, _tree) = read(user_data);
        let user = config.all_users(&system).remove(0);
        assert!(messages.is_empty(), "{messages:?}");
        assert_eq!((user.name.as_str(), user.shell.as_deref()), ("ops", Some("/bin/zsh")));
        assert_eq!((user.group_names(), user.sudo_rules()), (vec!["sudo".to_owned()], Some(vec![])));
    }

    #[test]
    fn keys_are_known_in_both_spellings_and_others_are_told() {
        let user_data = "users: [{name: a, ssh-authorized-keys: [k], lock-passwd: no, primary-group: g, uid: 1_000}, {name: b, shel: x}]";
        let (config, messages, system, _tree) = read(user_data);
        let users = config.all_users(&system);
        assert_eq!(messages, ["users[1].shel: unknown key"]);
        assert_eq!(users[0].ssh_authorized_keys.as_deref(), Some(&["k".to_owned()][..]));
        assert_eq!((users[0].lock_passwd, users[0].primary_group.as_deref()), (Some(false), Some("g")));
        assert_eq!(users[0].uid, Some(1000));
    }

    #[test]
    fn a_bad_user_is_told_with_its_place_and_the_others_count() {
        let (config, messages, system, _tree) = read("users: [bob, {shell: /bin/sh}, {name: x, uid: 12:30}, joe]");
        let names: Vec<_> = config.all_users(&system).into_iter().map(|user| user.name).collect();
        assert_eq!(names, ["bob", "joe"]);
        assert_eq!(
            messages,
            ["users[1]: the key `name` is missing", "users[2].uid: expected a whole number, found text"]
        );
    }

    #[test]
    fn what_this_version_does_not_do_is_named_and_no_secret_is_shown() {
        let user_data =
            "users: [{name: a, passwd: s3cret, plain-text-passwd: 12345, snapuser: me@example.org, inactive: '5'}]";
        let (config, messages, system, _tree) = read(user_data);
        let number = "a number that is taken for text as it is spelled; put it in quotes";
        assert_eq!(messages, [format!("users[0].plain-text-passwd: {number}")]);
        let user = config.all_users(&system).remove(0);
        assert_eq!(user.unsupported(), ["snapuser"]);
        let text = format!("{user:?}");
        assert!(!text.contains("s3cret") && !text.contains("12345"), "{text}");
    }

    #[test]
    fn a_users_groups_are_read_in_every_form() {
        for (groups, expected) in [
            ("'a, b'", vec!["a", "b"]),
            ("[a, 'b, c', 12]", vec!["a", "b", "c", "12"]),
            ("{adm: ~, sudo: []}", vec!["adm", "sudo"]),
            ("12", vec!["12"]),
        ] {
            let (config, _, system, _tree) = read(&format!("users: [{{name: x, groups: {groups}}}]"));
            assert_eq!(config.all_users(&system)[0].group_names(), expected, "{groups}");
        }
        for (users, message) in [
            ("[{name: x, groups: yes}, y]", "users[0].groups: expected names of groups"),
            ("[{name: x, groups: [[a]]}, y]", "users[0].groups[0]: expected text, found a list"),
            ("[[[a]], y]", "users[0][0]: expected text, found a list"),
        ] {
            let (config, messages, system, _tree) = read(&format!("users: {users}"));
            assert!(messages[0].starts_with(message), "{messages:?}");
            assert_eq!(config.all_users(&system)[0].name, "y");
        }
    }

    #[test]
    fn groups_are_read_in_every_form() {
        for (user_data, expected) in [
            ("groups: [docker, 123]", vec![("docker", vec![]), ("123", vec![])]),
            ("groups: a, b", vec![("a", vec![]), ("b", vec![])]),
            ("groups: [a: [x, y], b: z, c: ]", vec![("a", vec!["x", "y"]), ("b", vec!["z"]), ("c", vec![])]),
            ("groups: {a: [x], b: }", vec![("a", vec!["x"]), ("b", vec![])]),
            ("groups: ", vec![]),
        ] {
            let (config, messages, ..) = read(user_data);
            let groups: Vec<_> = config.groups.iter().flat_map(|groups| groups.0.clone()).collect();
            let owned = |(name, members): (&str, Vec<&str>)| {
                (name.to_owned(), members.into_iter().map(str::to_owned).collect::<Vec<_>>())
            };
            assert_eq!(groups, expected.into_iter().map(owned).collect::<Vec<_>>(), "{user_data} {messages:?}");
        }
    }
}
