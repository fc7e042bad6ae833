//! What a new image is called and what its tags say.

use std::hash::{BuildHasher, Hasher, RandomState};

use super::base::{INPUTS_TAG, KEY_TAG, PROOF_TAG, SKIPPED_TAG, STAGE_TAG};
use super::inputs::Inputs;
use super::{Recipe, Seal};
use crate::aws::Ami;

/// What EC2 takes as the value of a tag, in characters.
pub const LONGEST_TAG: usize = 256;

/// What EC2 takes as the name of an image, in characters.
const LONGEST_NAME: usize = 128;

/// One try to make an image, told from every other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunId {
    /// A tag on all that is made on the way, the name of the key pair, and a part of the name of a lease.
    pub id: String,
    /// The full name of the new image.
    pub image_name: String,
    /// When it began: `20261124T134418Z`.
    pub timestamp: String,
}

impl RunId {
    /// A new one.
    ///
    /// # Errors
    /// When the name of the image is longer than EC2 allows.
    pub fn new(recipe: &Recipe) -> Result<RunId, String> {
        let timestamp = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        // No name of an image has a slash, and a launch template, as which a lease is held, may have one.
        let label = recipe.label.replace(':', "/");
        // No number of a process: two containers have the same ones. Every hasher of std has random keys.
        let chance = RandomState::new().build_hasher().finish() as u32;
        let id = format!("kiln-{label}-{timestamp}-{chance:08x}");
        Ok(RunId { id, image_name: name(recipe, &timestamp)?, timestamp })
    }
}

/// What is known of a bake besides its recipe.
#[derive(Clone, Debug)]
pub struct Circumstances {
    /// The machine that runs it.
    pub host: String,
    /// Whoever runs it, for a recipe without owner.
    pub user: String,
    /// Everything that goes into it.
    pub inputs: Inputs,
    /// The commit of the folder with kiln.yaml, if it is in a checkout.
    pub git_revision: Option<String>,
}

/// `{application}-{version}.{build}-{arch}-{timestamp}-{store}`.
///
/// # Errors
/// When that is longer than EC2 allows.
pub fn name(recipe: &Recipe, timestamp: &str) -> Result<String, String> {
    let Recipe { name, version, build, arch, store, .. } = recipe;
    let full = format!("{name}-{version}.{build}-{}-{timestamp}-{}", arch.name(), store.name());
    if full.len() > LONGEST_NAME {
        return Err(format!(
            "the name {full} has {} characters and EC2 takes {LONGEST_NAME}: shorten the name or version of {name}",
            full.len()
        ));
    }
    Ok(full)
}

/// The tags of the image, but the one that says that it passed its gate.
pub fn tags(recipe: &Recipe, base: &Ami, bake: &Circumstances) -> Vec<(&'static str, String)> {
    let owner = recipe.owner.as_ref().unwrap_or(&bake.user);
    let tags = [
        ("application", Some(recipe.name.clone())),
        ("version", Some(recipe.version.clone())),
        ("build", Some(recipe.build.clone())),
        ("release", release(recipe, base)),
        ("environment", Some(recipe.environment.clone())),
        ("role", recipe.role.clone()),
        ("layer", Some(recipe.layer.name().to_owned())),
        ("store", Some(recipe.store.name().to_owned())),
        ("owner", Some(owner.clone())),
        ("host", Some(bake.host.clone())),
        ("ancestor", Some(base.id.clone())),
        ("ancestor_name", Some(base.name.clone())),
        (STAGE_TAG, Some("candidate".to_owned())),
        (KEY_TAG, Some(bake.inputs.key())),
        (INPUTS_TAG, Some(bake.inputs.tag())),
        ("git_revision", bake.git_revision.clone()),
        (SKIPPED_TAG, skipped(&recipe.seal)),
        (PROOF_TAG, (!recipe.prove).then(|| NOT_PROVED.to_owned())),
    ];
    tags.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

/// The value of [`PROOF_TAG`] on an image that nobody is to prove.
pub const NOT_PROVED: &str = "off";

/// What the seal lets pass and why, as the tag says it: `shell-history: …; /opt/app/*.pem: …`.
pub fn skipped(seal: &Seal) -> Option<String> {
    let told: Vec<_> =
        seal.skip.iter().chain(&seal.permit).map(|(id, reason)| format!("{id}: {}", reason.trim())).collect();
    (!told.is_empty()).then(|| told.join("; "))
}

/// The description: the tags that a person looks for, where every console shows them.
pub fn description(recipe: &Recipe, base: &Ami) -> String {
    format!(
        "store={},ancestor_name={},ancestor_id={},version={},env={},app={},release={}",
        recipe.store.name(),
        base.name,
        base.id,
        recipe.version,
        recipe.environment,
        recipe.name,
        release(recipe, base).unwrap_or_default(),
    )
}

/// A release line goes down through the layers.
fn release(recipe: &Recipe, base: &Ami) -> Option<String> {
    recipe.release.clone().or_else(|| base.tags.get("release").cloned())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::images::inputs::Content;
    use crate::images::{Arch, From, Layer, Store};

    /// An application on golden.
    pub(crate) fn recipe() -> Recipe {
        Recipe {
            name: "myapp".into(),
            label: "myapp".into(),
            layer: Layer::App,
            from: From::Image("golden".into()),
            role: Some("web".into()),
            version: "0.1".into(),
            build: "7".into(),
            release: None,
            environment: "demo".into(),
            owner: Some("sre".into()),
            store: Store::Ebs,
            arch: Arch::X86_64,
            ssh_username: "admin".into(),
            instance_type: None,
            gate_timeout: Duration::from_secs(600),
            bake_timeout: None,
            provision: vec![],
            files: vec![],
            checks: vec![],
            tests: vec![],
            user_data: None,
            seal: Seal::default(),
            prove: true,
        }
    }

    fn inputs() -> Inputs {
        let mut inputs = Inputs::default();
        inputs.put("base", Content::of(b"ami-1"));
        inputs
    }

    pub(crate) fn circumstances() -> Circumstances {
        Circumstances {
            host: "builder".into(),
            user: "jenkins".into(),
            inputs: inputs(),
            git_revision: Some("abc".into()),
        }
    }

    pub(crate) fn golden() -> Ami {
        let tags = [("release".to_owned(), "12".to_owned()), (KEY_TAG.to_owned(), "1".to_owned())];
        Ami { id: "ami-1".into(), name: "golden-12.0-x86_64-1-ebs".into(), tags: tags.into(), ..Ami::default() }
    }

    #[test]
    fn the_name_has_its_parts_in_order() {
        assert_eq!(name(&recipe(), "20261124T134418Z").unwrap(), "myapp-0.1.7-x86_64-20261124T134418Z-ebs");
    }

    #[test]
    fn a_name_too_long_for_ec2_is_refused_before_anything_starts() {
        let long = Recipe { version: "1".repeat(100), ..recipe() };
        let error = name(&long, "20261124T134418Z").unwrap_err();
        assert!(error.contains("has 136 characters and EC2 takes 128"), "{error}");
    }

    #[test]
    fn the_id_of_a_run_can_stand_in_the_name_of_a_lease() {
        let variant = Recipe { label: "my_app:arm64:ebs".into(), ..recipe() };
        let id = RunId::new(&variant).unwrap().id;
        assert!(id.starts_with("kiln-my_app/arm64/ebs-"), "{id}");
        // What EC2 takes in the name of a launch template, which a lease is.
        assert!(id.chars().all(|c| c.is_ascii_alphanumeric() || "().-/_".contains(c)), "{id}");
    }

    #[test]
    fn the_tags_say_where_the_image_comes_from() {
        let tags = tags(&recipe(), &golden(), &circumstances());
        let text: Vec<_> = tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(
            text.join(" "),
            format!(
                "application=myapp version=0.1 build=7 release=12 environment=demo role=web layer=app store=ebs owner=sre \
             host=builder ancestor=ami-1 ancestor_name=golden-12.0-x86_64-1-ebs stage=candidate bake_key={} \
             bake_inputs={} git_revision=abc",
                inputs().key(),
                inputs().tag()
            )
        );
    }

    #[test]
    fn what_is_not_known_is_no_tag_and_the_owner_is_whoever_bakes() {
        let bare = Recipe { owner: None, role: None, ..recipe() };
        let bake = Circumstances { git_revision: None, ..circumstances() };
        let tags = tags(&bare, &Ami::default(), &bake);
        assert!(tags.contains(&("owner", "jenkins".to_owned())));
        let absent = ["role", "release", "git_revision", "seal_skipped", "proof"];
        assert!(!tags.iter().any(|(key, _)| absent.contains(key)));
    }

    #[test]
    fn a_weakness_is_a_tag() {
        let told = |what: &str, reason: &str| [(what.to_owned(), reason.to_owned())].into();
        let seal = Seal { skip: told("mail", "a mail server"), permit: told("/opt/*.pem", " tests ") };
        let tags = tags(&Recipe { seal, prove: false, ..recipe() }, &golden(), &circumstances());
        assert!(tags.contains(&("seal_skipped", "mail: a mail server; /opt/*.pem: tests".to_owned())), "{tags:?}");
        assert!(tags.contains(&("proof", "off".to_owned())), "{tags:?}");
    }

    #[test]
    fn the_description_repeats_what_people_search_for() {
        assert_eq!(
            description(&recipe(), &golden()),
            "store=ebs,ancestor_name=golden-12.0-x86_64-1-ebs,ancestor_id=ami-1,version=0.1,env=demo,app=myapp,release=12"
        );
    }
}
