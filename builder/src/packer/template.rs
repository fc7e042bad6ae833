//! The template: legacy JSON, the one form that packer 1.6.6 and today's versions both read.
//!
//! It has relative paths alone, because packer runs in the folder that holds its inputs, and no
//! secret: user-data is a file beside it, and credentials come by the environment.

use std::time::Duration;

use indexmap::IndexMap;
use serde::Serialize;

use super::RUN_TAG;
use super::capabilities::Key;
use super::version::Packer;
use crate::images::Bundle;

/// Where certificate, key and bundle lie on the instance. `bundle.sh` makes it; what is in it is not bundled.
pub const BUNDLE_FOLDER: &str = "/var/tmp/kiln-bundle";

/// Names of files beside the template.
pub mod files {
    /// The template itself. The suffix decides how packer reads it.
    pub const TEMPLATE: &str = "template.json";
    /// What the instance gets as user-data.
    pub const USER_DATA: &str = "user-data";
    /// Everything that is uploaded.
    pub const PAYLOAD: &str = "payload.tar";
    /// The report that comes home.
    pub const REPORT: &str = "report.tar.gz";
    /// What packer prints. It may hold secrets: not every version takes them out.
    pub const OUTPUT: &str = "packer.out";
    /// Packer's own record of what it made.
    pub const MANIFEST: &str = "manifest.json";
}

/// A packer template.
#[derive(Debug, Serialize)]
pub struct Template {
    /// What to make.
    pub builders: Vec<Builder>,
    /// What to do on the instance, in order.
    pub provisioners: Vec<Provisioner>,
    /// What to do with the image.
    #[serde(rename = "post-processors", skip_serializing_if = "Vec::is_empty")]
    pub post_processors: Vec<PostProcessor>,
}

/// The builder `amazon-ebs` or `amazon-instance`. What is not in every version is optional.
#[derive(Debug, Serialize)]
pub struct Builder {
    #[serde(rename = "type")]
    kind: &'static str,
    /// The prefix of every line that packer prints.
    name: String,
    ami_name: String,
    ami_description: String,
    region: String,
    source_ami: String,
    instance_type: String,
    ssh_username: String,
    ssh_timeout: String,
    user_data_file: &'static str,
    temporary_key_pair_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    temporary_key_pair_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata_options: Option<MetadataOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    imds_support: Option<&'static str>,
    tags: IndexMap<String, String>,
    run_tags: IndexMap<String, String>,
    /// Of network volumes alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    run_volume_tags: Option<IndexMap<String, String>>,
    aws_polling: Polling,
    #[serde(flatten)]
    encryption: Option<Encryption>,
    #[serde(flatten)]
    bundle: Option<BundleKeys>,
    #[serde(flatten)]
    endpoint: Option<CustomEndpoint>,
    #[serde(flatten)]
    lab: Option<LabOnly>,
}

/// Keys of `amazon-instance`, which bundles the machine's root on the machine itself and puts it into S3.
#[derive(Debug, Serialize)]
struct BundleKeys {
    account_id: String,
    s3_bucket: String,
    x509_cert_path: String,
    x509_key_path: String,
    x509_upload_path: &'static str,
    bundle_destination: &'static str,
    bundle_prefix: String,
    bundle_vol_command: String,
    bundle_upload_command: String,
    iam_instance_profile: String,
}

/// How often and how long to ask whether something is ready.
#[derive(Debug, Serialize)]
struct Polling {
    delay_seconds: u32,
    max_attempts: u32,
}

/// Keys for an image whose snapshots are encrypted.
#[derive(Debug, Serialize)]
struct Encryption {
    encrypt_boot: bool,
    kms_key_id: String,
}

/// How the instance of the bake answers for its metadata.
#[derive(Debug, Serialize)]
struct MetadataOptions {
    http_endpoint: &'static str,
    /// A session is needed, which a request that was smuggled in from outside does not get.
    http_tokens: &'static str,
}

/// Keys for an API that is not AWS's own.
#[derive(Debug, Serialize)]
struct CustomEndpoint {
    custom_endpoint_ec2: String,
    skip_region_validation: bool,
    skip_credential_validation: bool,
    skip_metadata_api_check: bool,
}

/// Keys for the lab alone.
#[derive(Debug, Serialize)]
struct LabOnly {
    /// The emulator answers the check for a free name wrongly. Against AWS this key has removed images in use.
    force_deregister: bool,
    /// Machines have no public address.
    ssh_interface: &'static str,
}

/// One step on the instance.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Provisioner {
    /// Moves a file; `direction` is `upload` or `download`.
    File {
        /// Where from.
        source: String,
        /// Where to.
        destination: String,
        /// Which way.
        direction: &'static str,
    },
    /// Runs a script as root.
    Shell {
        /// The script, beside the template.
        script: String,
        /// How to run it.
        execute_command: String,
        /// When to give up.
        timeout: String,
    },
}

/// What packer does with the image it made.
#[derive(Debug, Serialize)]
pub struct PostProcessor {
    #[serde(rename = "type")]
    kind: &'static str,
    output: &'static str,
}

/// Which API packer talks to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Api {
    /// That of AWS.
    Aws,
    /// Another one, by its address.
    Url(String),
    /// The lab, by its address.
    Lab(String),
}

/// What one template says.
pub struct Machine {
    /// The image in kiln.yaml.
    pub image: String,
    /// The full name of the new image.
    pub name: String,
    /// Its description.
    pub description: String,
    /// Its tags.
    pub tags: Vec<(&'static str, String)>,
    /// The id of this run.
    pub run: String,
    /// The name of its key pair, one of [`key_pairs`](super::key_pairs).
    pub key_pair: String,
    /// The region.
    pub region: String,
    /// The API.
    pub api: Api,
    /// The image to start from.
    pub base: String,
    /// The instance to start.
    pub instance_type: String,
    /// Whom to log in as.
    pub ssh_username: String,
    /// The key to encrypt it with.
    pub key: Option<String>,
    /// How to bundle an image on an instance store; none for one on a network volume.
    pub bundle: Option<Bundle>,
    /// Who reads this.
    pub packer: Packer,
}

impl Machine {
    /// The builder that makes this image.
    pub fn builder(&self) -> Builder {
        let lab = matches!(self.api, Api::Lab(_));
        let run_tags: IndexMap<_, _> = [
            ("Name".to_owned(), literal(&format!("kiln bakes {}", self.image))),
            (RUN_TAG.to_owned(), self.run.clone()),
        ]
        .into();
        Builder {
            kind: if self.bundle.is_some() { "amazon-instance" } else { "amazon-ebs" },
            name: self.image.clone(),
            ami_name: self.name.clone(),
            ami_description: literal(&self.description),
            region: self.region.clone(),
            source_ami: self.base.clone(),
            instance_type: self.instance_type.clone(),
            ssh_username: literal(&self.ssh_username),
            ssh_timeout: if lab { "60s" } else { "10m" }.to_owned(),
            user_data_file: files::USER_DATA,
            temporary_key_pair_name: self.key_pair.clone(),
            temporary_key_pair_type: self.packer.knows(Key::KeyPairType).then_some("ed25519"),
            metadata_options: (self.packer.knows(Key::MetadataOptions))
                .then_some(MetadataOptions { http_endpoint: "enabled", http_tokens: "required" }),
            imds_support: self.packer.knows(Key::ImdsSupport).then_some("v2.0"),
            tags: self.tags.iter().map(|(key, value)| ((*key).to_owned(), literal(value))).collect(),
            run_volume_tags: self.bundle.is_none().then(|| run_tags.clone()),
            run_tags,
            // An hour for AWS, because a large volume takes that long to become a snapshot.
            aws_polling: if lab {
                Polling { delay_seconds: 1, max_attempts: 300 }
            } else {
                Polling { delay_seconds: 15, max_attempts: 240 }
            },
            // The lab's images are folders: there is nothing to encrypt.
            encryption: self.key.clone().filter(|_| !lab).map(|key| Encryption { encrypt_boot: true, kms_key_id: key }),
            bundle: self.bundle.as_ref().map(|bundle| self.bundle_keys(bundle)),
            endpoint: match &self.api {
                Api::Aws => None,
                Api::Url(url) | Api::Lab(url) => Some(CustomEndpoint {
                    custom_endpoint_ec2: url.clone(),
                    skip_region_validation: true,
                    skip_credential_validation: true,
                    skip_metadata_api_check: true,
                }),
            },
            lab: lab.then_some(LabOnly { force_deregister: true, ssh_interface: "private_ip" }),
        }
    }

    fn bundle_keys(&self, bundle: &Bundle) -> BundleKeys {
        let sudo = if self.ssh_username == "root" { "" } else { "sudo -n -i " };
        // Packer's own commands have a pattern in them that the shell turns into the names of the key's files, and
        // without an instance profile the account's key as an argument.
        BundleKeys {
            account_id: bundle.account_id.clone(),
            s3_bucket: literal(&bundle.s3_bucket),
            x509_cert_path: literal(&bundle.x509_cert.display().to_string()),
            x509_key_path: literal(&bundle.x509_key.display().to_string()),
            x509_upload_path: BUNDLE_FOLDER,
            bundle_destination: BUNDLE_FOLDER,
            bundle_prefix: self.name.clone(),
            bundle_vol_command: format!(
                "{sudo}ec2-bundle-vol -k {{{{.KeyPath}}}} -c {{{{.CertPath}}}} -u {{{{.AccountId}}}} -r \
                 {{{{.Architecture}}}} -e {{{{.PrivatePath}}}} -d {{{{.Destination}}}} -p {{{{.Prefix}}}} --batch --no-filter"
            ),
            bundle_upload_command: format!(
                "{sudo}ec2-upload-bundle -b {{{{.BucketName}}}} -m {{{{.ManifestPath}}}} -d {{{{.BundleDirectory}}}} \
                 --region {{{{.Region}}}} --batch --retry"
            ),
            iam_instance_profile: literal(&bundle.instance_profile),
        }
    }

    /// A script that runs as root. It is read by the shell, so that a `/tmp` without execution does not matter.
    pub fn root_script(&self, script: impl Into<String>, timeout: Duration) -> Provisioner {
        let sudo = if self.ssh_username == "root" { "" } else { "sudo -n " };
        Provisioner::Shell {
            script: script.into(),
            execute_command: format!("{sudo}env {{{{ .Vars }}}} sh {{{{ .Path }}}}"),
            timeout: format!("{}s", timeout.as_secs()),
        }
    }
}

/// The record of what was made; it survives a packer that is killed before it could print it.
pub fn manifest() -> PostProcessor {
    PostProcessor { kind: "manifest", output: files::MANIFEST }
}

/// Text that packer must not take for its own template language.
fn literal(text: &str) -> String {
    text.replace("{{", "{{`{{`}}")
}

/// The images in packer's manifest: `(region, id)`.
pub fn images_in_manifest(text: &str) -> Vec<(String, String)> {
    let manifest: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let builds = manifest["builds"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ids = builds.iter().filter_map(|build| build["artifact_id"].as_str());
    let pairs = ids.flat_map(|ids| ids.split(',')).filter_map(|pair| pair.split_once(':'));
    pairs.map(|(region, id)| (region.to_owned(), id.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packer::version::Version;

    fn machine(api: Api) -> Machine {
        Machine {
            image: "myapp".into(),
            name: "myapp-0.1.7-x86_64-20261124T134418Z-ebs".into(),
            description: "app=myapp".into(),
            tags: vec![("owner", "{{ sre }}".into())],
            run: "kiln-5eed".into(),
            key_pair: "kiln-5eed".into(),
            region: "eu-west-1".into(),
            api,
            base: "ami-1".into(),
            key: None,
            instance_type: "t3.small".into(),
            ssh_username: "admin".into(),
            bundle: None,
            packer: Packer::new(Version(1, 6, 6), None),
        }
    }

    #[test]
    fn a_version_that_can_asks_for_sessions_of_imds_and_another_is_not_told_the_keys() {
        let builder = |packer| serde_json::to_value(Machine { packer, ..machine(Api::Aws) }.builder()).unwrap();
        let current = builder(Packer::new(Version(1, 16, 0), Some(Version(1, 8, 2))));
        let required = serde_json::json!({"http_endpoint": "enabled", "http_tokens": "required"});
        assert_eq!((&current["metadata_options"], &current["imds_support"]), (&required, &"v2.0".into()));
        assert_eq!(current["temporary_key_pair_type"], "ed25519");
        let old = builder(Packer::new(Version(1, 6, 6), None));
        assert!(old.get("metadata_options").is_none() && old.get("imds_support").is_none(), "{old}");
        let oldest = builder(Packer::new(Version(1, 6, 0), None));
        assert!(oldest.get("temporary_key_pair_type").is_none(), "{oldest}");
    }

    #[test]
    fn pain_5_what_could_remove_an_image_in_use_is_for_the_lab_alone() {
        let json = |api| serde_json::to_value(machine(api).builder()).unwrap();
        let lab = json(Api::Lab("http://10.0.0.1:5000".into()));
        assert_eq!((&lab["force_deregister"], &lab["ssh_interface"]), (&true.into(), &"private_ip".into()));
        for api in [Api::Aws, Api::Url("http://127.0.0.1".into())] {
            let other = json(api);
            assert!(other.get("force_deregister").is_none() && other.get("ssh_interface").is_none());
        }
        assert!(json(Api::Aws).get("custom_endpoint_ec2").is_none());
    }

    #[test]
    fn a_value_with_braces_is_no_template_of_packers() {
        let json = serde_json::to_value(machine(Api::Aws).builder()).unwrap();
        assert_eq!(json["tags"]["owner"], "{{`{{`}} sre }}");
    }

    #[test]
    fn an_image_is_encrypted_where_there_is_something_to_encrypt() {
        let text = |api| {
            let machine = Machine { key: Some("alias/ours".into()), ..machine(api) };
            serde_json::to_string(&machine.builder()).unwrap()
        };
        assert!(text(Api::Aws).contains("\"encrypt_boot\":true,\"kms_key_id\":\"alias/ours\""), "{}", text(Api::Aws));
        assert!(!text(Api::Lab("http://10.0.0.1".into())).contains("kms_key_id"));
        assert!(!serde_json::to_string(&machine(Api::Aws).builder()).unwrap().contains("encrypt_boot"));
    }

    #[test]
    fn root_needs_no_sudo() {
        let command = |user: &str| {
            let machine = Machine { ssh_username: user.into(), ..machine(Api::Aws) };
            serde_json::to_value(machine.root_script("x.sh", Duration::from_secs(90))).unwrap()
        };
        assert_eq!(command("root")["execute_command"], "env {{ .Vars }} sh {{ .Path }}");
        assert_eq!(command("admin")["execute_command"], "sudo -n env {{ .Vars }} sh {{ .Path }}");
        assert_eq!(command("admin")["timeout"], "90s");
    }

    #[test]
    fn images_are_read_from_the_manifest() {
        let text = r#"{"builds":[{"name":"golden","builder_type":"amazon-ebs","artifact_id":"eu-west-1:ami-1,us-east-1:ami-2"}],"last_run_uuid":"x"}"#;
        let pair = |region: &str, id: &str| (region.to_owned(), id.to_owned());
        assert_eq!(images_in_manifest(text), [pair("eu-west-1", "ami-1"), pair("us-east-1", "ami-2")]);
        assert_eq!(images_in_manifest("half a fi"), []);
    }
}
