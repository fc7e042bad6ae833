//! Image trees as stacks of layers.
//!
//! An imported tree is one layer, used where it lies and never written to. A machine writes to an
//! upper folder of its own above its image's stack. When an image is made of it, that folder is
//! frozen as a new layer and the machine goes on above it: no image costs a copy. A layer goes when
//! no image and no machine stands on it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::error::{Doing, Error, Result};
use crate::system::files;

/// A layer's number, which is its name in the folder of layers.
pub type Layer = u32;

/// Layers from the uppermost down.
pub type Stack = Vec<Layer>;

/// The kernel stacks at most this many, the upper folder not counted.
const MOST_LAYERS: usize = 500;
/// The kernel takes mount options as one page of text with its end mark.
const MOST_OPTIONS: usize = 4095;

/// What is known of an image's tree.
#[derive(Debug)]
struct Tree {
    stack: Stack,
    /// Whether the API has shown the image: from then on its absence means deregistration.
    shown: bool,
}

/// All layers of a lab and who stands on them.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    next: Layer,
    layers: BTreeSet<Layer>,
    images: BTreeMap<String, Tree>,
    machines: BTreeMap<String, Stack>,
}

impl Store {
    /// An empty store in a folder that exists.
    pub fn new(folder: PathBuf) -> Store {
        let (layers, images, machines) = Default::default();
        Store { folder, next: 1, layers, images, machines }
    }

    /// Registers a folder's tree, where it lies, as an image.
    ///
    /// # Errors
    /// When the folder of layers cannot be written.
    pub fn import(&mut self, image: &str, tree: &Path) -> Result<()> {
        let layer = self.take_number();
        // By a link, the tree's own path neither lengthens the mount options nor needs escaping.
        files::link(tree, &self.place(layer)).doing(|| format!("cannot note the tree {}", tree.display()))?;
        self.layers.insert(layer);
        self.images.insert(image.to_owned(), Tree { stack: vec![layer], shown: false });
        Ok(())
    }

    /// Lets an image stand on the tree of another; false when that has none.
    pub fn alias(&mut self, image: &str, of: &str) -> bool {
        let Some(stack) = self.images.get(of).map(|tree| tree.stack.clone()) else { return false };
        self.images.insert(image.to_owned(), Tree { stack, shown: true });
        true
    }

    /// Whether an image has a tree.
    pub fn has(&self, image: &str) -> bool {
        self.images.contains_key(image)
    }

    /// The stack of a machine, which is its image's when it is new.
    ///
    /// # Errors
    /// When the image has no tree in this lab.
    pub fn attach(&mut self, instance: &str, image: &str) -> Result<Stack> {
        if let Some(stack) = self.machines.get(instance) {
            return Ok(stack.clone());
        }
        let Some(tree) = self.images.get(image) else {
            return Err(Error::Input(format!(
                "image {image} has no tree in this lab; only imported images and images made of instances can start"
            )));
        };
        self.machines.insert(instance.to_owned(), tree.stack.clone());
        Ok(tree.stack.clone())
    }

    /// Makes an image of a machine's tree. `seal` gets the folder to fill with what the machine
    /// wrote; after that the machine goes on above it if it `moved` there, or as before if it was
    /// copied.
    ///
    /// # Errors
    /// When the machine has no disk, the stack would grow past what the kernel mounts, and what
    /// `seal` answers.
    pub fn freeze(
        &mut self,
        instance: &str,
        image: &str,
        moved: bool,
        seal: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        let Some(below) = self.machines.get(instance) else {
            return Err(Error::Input(format!("instance {instance} has no disk to make image {image} of")));
        };
        let mut stack = below.clone();
        let layer = self.take_number();
        stack.insert(0, layer);
        options(&stack, instance)?;
        seal(&self.place(layer))?;
        self.layers.insert(layer);
        if moved {
            self.machines.insert(instance.to_owned(), stack.clone());
        }
        self.images.insert(image.to_owned(), Tree { stack, shown: true });
        Ok(())
    }

    /// Forgets a machine whose disk is gone.
    pub fn release(&mut self, instance: &str) {
        self.machines.remove(instance);
    }

    /// Forgets images that the API no longer has, and gives the layers that nobody stands on, to be
    /// removed. They are forgotten here already.
    pub fn sweep(&mut self, images: &BTreeSet<&str>) -> Vec<PathBuf> {
        for (id, tree) in &mut self.images {
            tree.shown |= images.contains(id.as_str());
        }
        self.images.retain(|id, tree| !tree.shown || images.contains(id.as_str()));
        let stacks = self.images.values().map(|tree| &tree.stack).chain(self.machines.values());
        let used: BTreeSet<Layer> = stacks.flatten().copied().collect();
        let unused: Vec<Layer> = self.layers.difference(&used).copied().collect();
        self.layers = used;
        unused.into_iter().map(|layer| self.place(layer)).collect()
    }

    fn take_number(&mut self) -> Layer {
        let layer = self.next;
        self.next += 1;
        layer
    }

    fn place(&self, layer: Layer) -> PathBuf {
        self.folder.join(layer.to_string())
    }
}

/// The options that mount a machine's tree, with paths as seen from the folder of layers.
///
/// # Errors
/// When the stack is higher than the kernel mounts.
pub fn options(stack: &[Layer], instance: &str) -> Result<String> {
    let lower: Vec<String> = stack.iter().map(Layer::to_string).collect();
    let options = format!(
        // A frozen upper folder stands on exactly the layers it was written above, so renamed
        // folders may point into them; an index or copied-up metadata would tie it to one mount.
        "lowerdir={},upperdir=../machines/{instance}/upper,workdir=../machines/{instance}/work,\
         redirect_dir=on,index=off,metacopy=off",
        lower.join(":")
    );
    if stack.len() > MOST_LAYERS || options.len() > MOST_OPTIONS {
        return Err(Error::Input(format!(
            "the disk of {instance} stands on {} images made of each other, which is more than one mount can hold; \
             import the tree of one of them and go on from there",
            stack.len()
        )));
    }
    Ok(options)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "lays out trees to import")]
mod tests {
    use super::*;
    use std::fs;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("tree")).unwrap();
        fs::create_dir(folder.path().join("layers")).unwrap();
        let mut store = Store::new(folder.path().join("layers"));
        store.import("ami-0", &folder.path().join("tree")).unwrap();
        (folder, store)
    }

    fn freeze(store: &mut Store, instance: &str, image: &str, moved: bool) {
        store.freeze(instance, image, moved, |place| fs::create_dir(place).doing(String::new)).unwrap();
    }

    fn sweep(store: &mut Store, images: &[&str]) -> Vec<String> {
        let gone = store.sweep(&images.iter().copied().collect());
        gone.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn an_image_stands_on_the_layers_of_its_ancestors_uppermost_first() {
        let (_folder, mut store) = store();
        assert_eq!(store.attach("i-1", "ami-0").unwrap(), [1]);
        freeze(&mut store, "i-1", "ami-1", true);
        assert_eq!(store.attach("i-2", "ami-1").unwrap(), [2, 1]);
        freeze(&mut store, "i-2", "ami-2", true);
        assert_eq!(store.attach("i-3", "ami-2").unwrap(), [3, 2, 1]);
    }

    #[test]
    fn a_machine_goes_on_above_what_was_frozen_and_below_what_was_copied() {
        let (_folder, mut store) = store();
        store.attach("i-1", "ami-0").unwrap();
        freeze(&mut store, "i-1", "ami-1", true);
        assert_eq!(store.attach("i-1", "ami-0").unwrap(), [2, 1]);
        freeze(&mut store, "i-1", "ami-2", false);
        assert_eq!(store.attach("i-1", "ami-0").unwrap(), [2, 1]);
        assert_eq!(store.attach("i-2", "ami-2").unwrap(), [3, 2, 1]);
    }

    #[test]
    fn a_layer_stays_while_an_image_or_a_machine_stands_on_it() {
        let (_folder, mut store) = store();
        store.attach("i-1", "ami-0").unwrap();
        freeze(&mut store, "i-1", "ami-1", true);
        store.release("i-1");
        assert!(sweep(&mut store, &["ami-0", "ami-1"]).is_empty());
        // The import is deregistered, but ami-1 stands on its tree.
        assert!(sweep(&mut store, &["ami-1"]).is_empty());
        store.attach("i-2", "ami-1").unwrap();
        assert!(sweep(&mut store, &[]).is_empty());
        store.release("i-2");
        assert_eq!(sweep(&mut store, &[]), ["1", "2"]);
        assert!(sweep(&mut store, &[]).is_empty());
    }

    #[test]
    fn an_import_that_the_api_has_not_shown_yet_is_kept() {
        let (_folder, mut store) = store();
        assert!(sweep(&mut store, &[]).is_empty());
        assert!(sweep(&mut store, &["ami-0"]).is_empty());
        assert_eq!(sweep(&mut store, &[]), ["1"]);
    }

    #[test]
    fn a_removed_import_leaves_the_tree_where_it_is() {
        let (folder, mut store) = store();
        let gone = {
            store.sweep(&["ami-0"].into());
            store.sweep(&BTreeSet::new())
        };
        fs::write(folder.path().join("tree/file"), "kept").unwrap();
        for place in gone {
            files::remove_tree(&place).unwrap();
        }
        assert_eq!(fs::read_to_string(folder.path().join("tree/file")).unwrap(), "kept");
        assert_eq!(files::entries(&folder.path().join("layers")).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn an_image_without_a_tree_is_told() {
        let (_folder, mut store) = store();
        assert!(store.attach("i-1", "ami-9").unwrap_err().to_string().contains("ami-9 has no tree"));
        assert!(!store.alias("ami-8", "ami-9"));
        let unattached = store.freeze("i-1", "ami-1", true, |_| Ok(()));
        assert!(unattached.unwrap_err().to_string().contains("i-1 has no disk"));
    }

    #[test]
    fn a_failed_freeze_changes_nothing() {
        let (_folder, mut store) = store();
        store.attach("i-1", "ami-0").unwrap();
        let failed = store.freeze("i-1", "ami-1", true, |_| Err(Error::Input("disk full".to_owned())));
        assert!(failed.is_err());
        assert!(!store.has("ami-1"));
        assert_eq!(store.attach("i-1", "ami-0").unwrap(), [1]);
    }

    #[test]
    fn a_stack_is_refused_before_the_kernel_refuses_it() {
        let stack: Stack = (1..=500).collect();
        assert!(options(&stack, "i-0123456789abcdef0").unwrap().len() < MOST_OPTIONS);
        let stack: Stack = (1..=501).collect();
        assert!(options(&stack, "i-1").unwrap_err().to_string().contains("501 images"));
        let stack: Stack = (1_000_000_000..1_000_000_450).collect();
        assert!(options(&stack, "i-1").is_err());
    }
}
