//! Everything that is decided before packer starts.

use std::fs;
use std::path::{Path, PathBuf};

use super::site::Site;
use super::userdata::{Documents, documents};
use super::{Error, Request, steps};
use crate::aws::Ami;
use crate::gate::render;
use crate::images::inputs::{Content, Inputs};
use crate::images::names::{self, Circumstances, RunId};
use crate::images::relock::is_outside;
use crate::images::{Input, Kilnfile, Recipe, base, lock};
use crate::packer::template::{Machine, Template, manifest};
use crate::packer::version::Packer;
use crate::system::tools::Tool;

/// What holds for every image of one command.
#[derive(Clone, Copy)]
pub struct Given<'a> {
    /// The checked kiln.yaml.
    pub file: &'a Kilnfile,
    /// What is asked for.
    pub request: &'a Request,
    /// Where it happens.
    pub site: &'a Site,
    /// The packer on the path.
    pub packer: &'a Packer,
}

/// A bake with all its inputs known.
pub struct Plan {
    /// The recipe.
    pub recipe: Recipe,
    /// The image to start from.
    pub base: Ami,
    /// Says that the base is somebody else's newest and no lock keeps it from moving.
    pub unlocked: Option<String>,
    /// This try.
    pub run: RunId,
    /// The package of the agent; none where the base's own is to stay.
    pub agent_deb: Option<PathBuf>,
    /// Everything that goes into the image.
    pub inputs: Inputs,
    /// The tags of the new image, but the one that says that it passed.
    pub tags: Vec<(&'static str, String)>,
    /// Who reads the template.
    pub packer: Packer,
    /// What the agent is told.
    pub documents: Documents,
    /// What packer is told.
    pub template: Template,
}

impl Plan {
    /// Resolves base and inputs. `base` is the image to build on where that is known already.
    ///
    /// # Errors
    /// When the base is missing, an input cannot be read, or there is no agent to install.
    pub async fn make(given: Given<'_>, recipe: &Recipe, base: Option<Ami>, run: RunId) -> Result<Plan, Error> {
        let Given { file, request, site, packer } = given;
        let locked = file.lock.as_ref().and_then(|lock| lock.base(&recipe.label, &site.title()));
        let is_free = base.is_none() && locked.is_none() && is_outside(recipe);
        let unlocked = is_free.then(|| unlocked(file, recipe, &site.title()));
        let base = match base {
            Some(base) => base,
            None => base::resolve(&site.ec2, recipe, locked).await?,
        };
        let base_has_agent = base.tags.contains_key(base::KEY_TAG);
        let agent_deb = agent_deb(file, request, recipe, base_has_agent)?;
        let documents = documents(recipe, base_has_agent);
        let inputs = inputs(recipe, &base, agent_deb.as_deref(), &documents, packer)?;
        let bake = Circumstances {
            inputs: inputs.clone(),
            host: nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            user: user(),
            git_revision: git_revision(&file.folder),
        };
        let tags = names::tags(recipe, &base, &bake);
        let machine = Machine {
            image: recipe.name.clone(),
            name: run.image_name.clone(),
            description: names::description(recipe, &base),
            tags: tags.clone(),
            run: run.id.clone(),
            key_pair: run.id.clone(),
            region: site.region.clone(),
            api: site.api.clone(),
            base: base.id.clone(),
            instance_type: instance_type(recipe),
            ssh_username: recipe.ssh_username.clone(),
            key: site.distribution.keys.get(&site.region).cloned(),
            bundle: site.bundle.clone(),
            packer: packer.clone(),
        };
        let template = Template {
            builders: vec![machine.builder()],
            provisioners: steps::provisioners(&machine, recipe),
            post_processors: vec![manifest()],
        };
        let packer = packer.clone();
        Ok(Plan { recipe: recipe.clone(), base, unlocked, run, agent_deb, inputs, tags, packer, documents, template })
    }

    /// The image that has just been made, as the API will describe it.
    pub fn image(&self, id: String) -> Ami {
        Ami {
            id,
            name: self.run.image_name.clone(),
            owner: String::new(),
            arch: self.recipe.arch.name().to_owned(),
            root_device: self.recipe.store.name().to_owned(),
            created: jiff::Timestamp::now().to_string(),
            tags: self.tags.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect(),
            snapshots: Vec::new(),
        }
    }

    /// What the image is baked and proved on.
    pub fn instance_type(&self) -> String {
        instance_type(&self.recipe)
    }

    /// The template as packer gets it.
    pub fn template_json(&self) -> String {
        // Text keys and plain values alone: nothing in it can fail to be JSON.
        serde_json::to_string_pretty(&self.template).unwrap_or_default() + "\n"
    }
}

fn instance_type(recipe: &Recipe) -> String {
    recipe.instance_type.clone().unwrap_or_else(|| recipe.arch.instance_type(recipe.store).to_owned())
}

fn unlocked(file: &Kilnfile, recipe: &Recipe, place: &str) -> String {
    let label = &recipe.label;
    let path = lock::path(&file.path);
    let lacks = match file.lock {
        None => format!("there is no {}", path.display()),
        Some(_) => format!("{} has no base of {label} at {place}", path.display()),
    };
    format!("{lacks}, so {label} is built on the newest base that fits; `kiln lock {label}` keeps it from moving")
}

/// The package to install: the one that was named, else the newest that was built here.
fn agent_deb(
    file: &Kilnfile,
    request: &Request,
    recipe: &Recipe,
    base_has_agent: bool,
) -> Result<Option<PathBuf>, Error> {
    let suffix = format!("_{}.deb", recipe.arch.debian());
    if let Some(path) = &request.agent_deb {
        let deb = |why: String| Error::AgentDeb { path: path.clone(), why };
        let mut magic = [0; 8];
        let mut opened = fs::File::open(path).map_err(|error| deb(error.to_string()))?;
        if std::io::Read::read_exact(&mut opened, &mut magic).is_err() || magic != *b"!<arch>\n" {
            return Err(deb("this is no Debian package".to_owned()));
        }
        return Ok(Some(path.clone()));
    }
    let found = deb_folders(file).iter().find_map(|folder| newest_deb(folder, &suffix));
    if found.is_none() && !base_has_agent {
        return Err(Error::NoAgent { image: recipe.label.clone(), pattern: format!("kiln-agent_*{suffix}") });
    }
    Ok(found)
}

/// `target/deb` here, beside kiln.yaml, and in the folders above it up to the top of the checkout.
fn deb_folders(file: &Kilnfile) -> Vec<PathBuf> {
    let mut folders = vec![PathBuf::from("target/deb")];
    let start = file.folder.canonicalize().unwrap_or_else(|_| file.folder.clone());
    for folder in start.ancestors() {
        folders.push(folder.join("target/deb"));
        if folder.join(".git").exists() {
            break;
        }
    }
    folders
}

fn newest_deb(folder: &Path, suffix: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.filter_map(Result::ok);
    let fits = |name: &str| name.starts_with("kiln-agent_") && name.ends_with(suffix);
    let debs = entries.filter(|entry| entry.file_name().to_str().is_some_and(fits));
    debs.max_by_key(|entry| entry.metadata().and_then(|about| about.modified()).ok()).map(|entry| entry.path())
}

/// Everything that goes into the image, by the names that a person is told when one changes.
fn inputs(
    recipe: &Recipe,
    base: &Ami,
    agent_deb: Option<&Path>,
    documents: &Documents,
    packer: &Packer,
) -> Result<Inputs, Error> {
    let paths = |label: &str, inputs: &[Input]| {
        let mut content = Content::default();
        inputs.iter().try_for_each(|input| add_path(&mut content, label, &input.path)).map(|()| content)
    };
    let mut inputs = Inputs::default();
    inputs.put(base::BASE_INPUT, Content::of(base.id.as_bytes()));
    let mut agent = Content::default();
    agent_deb.map_or(Ok(()), |deb| add_path(&mut agent, "deb", deb))?;
    inputs.put("agent", agent);
    inputs.put("packer", Content::of(packer.to_string().as_bytes()));
    let mut user_data = Content::of(documents.user_data.as_bytes());
    user_data.add("bake", documents.bake.as_deref().unwrap_or_default().as_bytes());
    inputs.put("user-data", user_data);
    let mut settings = Content::of(documents.image.as_bytes());
    settings.add("environment", steps::environment(recipe).as_bytes());
    // What the image's tags say of its weaknesses must be true of it.
    let weaknesses = format!("{} {}", recipe.prove, names::skipped(&recipe.seal).unwrap_or_default());
    settings.add("weaknesses", weaknesses.as_bytes());
    // So must what they say of its release: a new version is a new image, though nothing else may have changed.
    let Recipe { version, build, release, environment, owner, .. } = recipe;
    for said in [Some(version), Some(build), release.as_ref(), Some(environment), owner.as_ref()] {
        settings.add("release", said.map_or("", String::as_str).as_bytes());
    }
    inputs.put("settings", settings);
    let mut kiln = Content::default();
    steps::scripts().for_each(|(name, text)| kiln.add(name, text.as_bytes()));
    inputs.put("kiln", kiln);
    inputs.put("scripts", paths("script", &recipe.provision)?);
    let mut files = Content::default();
    for file in &recipe.files {
        files.add("to", file.destination.as_bytes());
        add_path(&mut files, "file", &file.source.path)?;
    }
    inputs.put("files", files);
    let mut tests = paths("test", &recipe.tests)?;
    if !recipe.checks.is_empty() {
        tests.add("checks", render::bats(&recipe.checks).as_bytes());
    }
    if !(recipe.tests.is_empty() && recipe.checks.is_empty()) {
        tests.add("library", render::LIBRARY.as_bytes());
    }
    inputs.put("tests", tests);
    Ok(inputs)
}

fn add_path(content: &mut Content, label: &str, path: &Path) -> Result<(), Error> {
    content.add_path(label, path).map_err(|error| Error::file(path.display(), error))
}

/// Who runs this; under sudo, who called it.
pub(crate) fn user() -> String {
    let own = || nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten().map(|user| user.name);
    std::env::var("SUDO_USER").ok().or_else(own).unwrap_or_else(|| nix::unistd::getuid().to_string())
}

/// The commit, with `-dirty` where the checkout has changes that are in no commit.
fn git_revision(folder: &Path) -> Option<String> {
    let describe = ["describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"];
    let answer = Tool::new("git").args(describe).within(folder).capture().ok()?;
    let revision = String::from_utf8(answer.stdout).ok()?.trim().to_owned();
    (answer.status.success() && !revision.is_empty()).then_some(revision)
}

#[cfg(test)]
#[path = "../../../tests/src/apart.rs"]
mod apart;

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests prepare folders")]
pub(super) mod tests {
    use super::*;
    use crate::bake::stage::stage;
    use crate::images::names::tests::{circumstances, golden, recipe};
    use crate::images::{Bundle, PlacedFile};
    use crate::packer::template::{Api, files};
    use crate::packer::version::{self, Version};
    use crate::system::tools::present;

    /// A plan with one input of every kind.
    pub fn plan(inputs: &Path, api: Api, bundle: bool) -> Plan {
        fs::create_dir_all(inputs.join("puppet/modules")).unwrap();
        fs::create_dir_all(inputs.join("tests")).unwrap();
        for name in ["golden.sh", "puppet/site.pp", "tests/a.bats", "tests/b.bats", "motd"] {
            fs::write(inputs.join(name), name).unwrap();
        }
        let input = |given: &str| Input { given: given.into(), path: inputs.join(given) };
        let placed = |given: &str, to: &str| PlacedFile { source: input(given), destination: to.into() };
        let recipe = Recipe {
            provision: vec![input("golden.sh")],
            files: vec![placed("puppet", "/etc/kiln/puppet"), placed("motd", "/etc/")],
            tests: vec![input("tests")],
            user_data: Some(kiln_schema::yaml::parse("kiln.yaml", "password: hunter2hunter2").unwrap().0),
            ..recipe()
        };
        let machine = Machine {
            image: recipe.name.clone(),
            name: names::name(&recipe, "20261124T134418Z").unwrap(),
            description: names::description(&recipe, &golden()),
            tags: names::tags(&recipe, &golden(), &circumstances()),
            run: "kiln-myapp-20261124T134418Z-5eed".into(),
            key_pair: "kiln-myapp-20261124T134418Z-5eed".into(),
            region: "eu-west-1".into(),
            api,
            base: "ami-1".into(),
            key: None,
            instance_type: "t3.small".into(),
            ssh_username: "admin".into(),
            bundle: bundle.then(|| Bundle {
                account_id: "123456789012".into(),
                s3_bucket: "images/kiln".into(),
                x509_cert: inputs.join("motd"),
                x509_key: inputs.join("motd"),
                instance_profile: "bundler".into(),
            }),
            packer: version::probe(None).unwrap_or(Packer::new(Version(1, 6, 6), None)),
        };
        Plan {
            base: golden(),
            unlocked: None,
            run: RunId {
                id: machine.run.clone(),
                image_name: machine.name.clone(),
                timestamp: "20261124T134418Z".into(),
            },
            agent_deb: None,
            inputs: Inputs::default(),
            packer: machine.packer.clone(),
            tags: machine.tags.clone(),
            documents: documents(&recipe, true),
            template: Template {
                builders: vec![machine.builder()],
                provisioners: steps::provisioners(&machine, &recipe),
                post_processors: vec![manifest()],
            },
            recipe,
        }
    }

    #[test]
    fn the_template_is_as_reviewed_and_has_no_secret() {
        let inputs = tempfile::tempdir().unwrap();
        let json = plan(inputs.path(), Api::Lab("http://10.0.0.1:5000".into()), false).template_json();
        assert!(!json.contains("hunter2"));
        insta::assert_snapshot!(json);
    }

    #[test]
    fn an_image_on_an_instance_store_is_bundled_without_a_key_of_the_account() {
        let inputs = tempfile::tempdir().unwrap();
        let json = plan(inputs.path(), Api::Aws, true).template_json();
        let template: serde_json::Value = serde_json::from_str(&json).unwrap();
        let builder = &template["builders"][0];
        assert_eq!((&builder["type"], &builder["s3_bucket"]), (&"amazon-instance".into(), &"images/kiln".into()));
        assert_eq!(builder["iam_instance_profile"], "bundler");
        assert!(!json.contains("SecretKey") && !json.contains("run_volume_tags"), "{json}");
        let last = template["provisioners"].as_array().unwrap().last().unwrap();
        assert_eq!(last["script"], "bundle.sh", "after the seal, which empties the folder for it");
    }

    #[test]
    fn the_folder_holds_what_the_template_names_and_packer_accepts_it() {
        let lab = || Api::Lab("http://10.0.0.1:5000".into());
        for (api, bundle) in [(Api::Aws, false), (lab(), false), (Api::Aws, true), (lab(), true)] {
            let (inputs, work) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            stage(&plan(inputs.path(), api, bundle), work.path()).unwrap();
            let run = |tool: Tool| {
                let answer = tool.within(work.path()).capture().unwrap();
                let said = String::from_utf8_lossy(&[answer.stdout, answer.stderr].concat()).into_owned();
                assert!(answer.status.success(), "{said}");
                said
            };
            let list = run(Tool::new("tar").args(["-tf", files::PAYLOAD]));
            assert_eq!(
                list.lines().collect::<Vec<_>>().join(" "),
                "./ ./50-image.yaml ./bake.env ./files/ ./files/0/ ./files/0/modules/ ./files/0/site.pp ./files/1 \
                 ./files.list ./provision/ ./provision/00 ./provision.list ./tests/ ./tests/a.bats ./tests/b.bats ./tests/kiln.bash"
            );
            let lists = ["files.list", "provision.list"]
                .map(|name| fs::read_to_string(work.path().join("payload").join(name)).unwrap());
            assert_eq!(lists, ["0\t/etc/kiln/puppet\n1\t/etc/motd\n", "00\tgolden.sh\n"]);
            if present("packer") && version::probe(None).is_ok() {
                run(Tool::new("packer").args(["validate", files::TEMPLATE]).env("CHECKPOINT_DISABLE", "1"));
            } else {
                apart::skip("packer is not installed: nobody but us has checked the template");
            }
        }
    }

    #[test]
    fn pain_11_the_bake_key_has_the_base_that_was_found_the_packer_and_each_script() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("golden.sh");
        fs::write(&script, "echo 1").unwrap();
        let recipe = Recipe { provision: vec![Input { given: "golden.sh".into(), path: script.clone() }], ..recipe() };
        let key = |base: &str, packer: &Packer| {
            let base = Ami { id: base.into(), ..golden() };
            inputs(&recipe, &base, None, &documents(&recipe, true), packer).unwrap()
        };
        let packer = |plugin| Packer::new(Version(1, 16, 0), Some(Version(1, 8, plugin)));
        let first = key("ami-1", &packer(2));
        assert_eq!(key("ami-1", &packer(2)).key(), first.key(), "a hit");
        assert_eq!(key("ami-2", &packer(2)).changed_since(&first.tag()), ["base"], "its name is the same");
        assert_eq!(key("ami-1", &packer(3)).changed_since(&first.tag()), ["packer"]);
        fs::write(&script, "echo 2").unwrap();
        assert_eq!(key("ami-1", &packer(2)).changed_since(&first.tag()), ["scripts"]);
    }

    #[test]
    fn two_tests_of_one_name_are_refused() {
        let (inputs, work) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut plan = plan(inputs.path(), Api::Aws, false);
        fs::create_dir(inputs.path().join("more")).unwrap();
        fs::write(inputs.path().join("more/a.bats"), "").unwrap();
        plan.recipe.tests.push(Input { given: "more/a.bats".into(), path: inputs.path().join("more/a.bats") });
        let error = stage(&plan, work.path()).unwrap_err().to_string();
        assert!(error.starts_with("two tests of myapp are called a.bats"), "{error}");
    }

    #[test]
    fn the_library_lies_beside_the_tests_and_its_name_is_taken() {
        let (inputs, work) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut plan = plan(inputs.path(), Api::Aws, false);
        plan.recipe.checks = vec![check("22")];
        let own = inputs.path().join("tests/kiln.bash");
        // Whoever runs the tests by hand has a copy there.
        fs::write(&own, render::LIBRARY).unwrap();
        stage(&plan, work.path()).unwrap();
        let tests = work.path().join("payload/tests");
        assert_eq!(fs::read_to_string(tests.join("kiln.bash")).unwrap(), render::LIBRARY);
        assert!(fs::read_to_string(tests.join("kiln-checks.bats")).unwrap().contains("port_listens '22'"));
        fs::write(&own, "another").unwrap();
        let error = stage(&plan, tempfile::tempdir().unwrap().path()).unwrap_err().to_string();
        assert!(error.starts_with("two tests of myapp are called kiln.bash"), "{error}");
    }

    fn check(port: &str) -> crate::images::Assertion {
        let (name, arguments) = (format!("port {port} listens"), vec![port.to_owned()]);
        crate::images::Assertion { name, function: "port_listens", arguments, within: None }
    }

    #[test]
    fn a_new_version_makes_another_image() {
        let packer = Packer::new(Version(1, 6, 6), None);
        let inputs_of = |version: &str| {
            let recipe = Recipe { version: version.into(), ..recipe() };
            inputs(&recipe, &golden(), None, &documents(&recipe, true), &packer).unwrap()
        };
        assert_eq!(inputs_of("2").changed_since(&inputs_of("1").tag()), ["settings"]);
    }

    #[test]
    fn a_check_that_changes_makes_another_image() {
        let inputs_of = |checks: Vec<crate::images::Assertion>| {
            let recipe = Recipe { checks, ..recipe() };
            inputs(&recipe, &golden(), None, &documents(&recipe, true), &Packer::new(Version(1, 6, 6), None)).unwrap()
        };
        let (none, one) = (inputs_of(vec![]), inputs_of(vec![check("22")]));
        assert_eq!(one.changed_since(&none.tag()), ["tests"]);
        assert_eq!(inputs_of(vec![check("23")]).changed_since(&one.tag()), ["tests"]);
        assert!(inputs_of(vec![check("22")]).changed_since(&one.tag()).is_empty());
    }

    #[test]
    fn the_newest_package_of_the_architecture_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        for (name, second) in [
            ("kiln-agent_1_amd64.deb", 2),
            ("kiln-agent_2_amd64.deb", 1),
            ("kiln-agent_3_arm64.deb", 3),
            ("kiln_9_amd64.deb", 9),
        ] {
            let file = fs::File::create(folder.path().join(name)).unwrap();
            file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(second)).unwrap();
        }
        assert_eq!(newest_deb(folder.path(), "_amd64.deb").unwrap(), folder.path().join("kiln-agent_1_amd64.deb"));
        assert_eq!(newest_deb(Path::new("/nowhere"), "_amd64.deb"), None);
    }
}
