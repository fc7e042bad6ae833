//! One image for several processors or stores: each combination is a variant with a recipe of its own.

use indexmap::IndexSet;

use super::check::{Checker, Step};
use super::types::{Arch, Defaults, File, Image, InstanceType, Store};
use super::{Error, From, Kilnfile, Recipe, Target};
use Step::{Item, Key};

/// What tells the variants of an image apart.
pub(super) struct Variants {
    archs: Vec<Arch>,
    stores: Vec<Store>,
    instance_types: Option<InstanceType>,
}

impl Variants {
    /// Those of one image.
    pub fn of(image: &Image, defaults: &Defaults) -> Variants {
        Variants {
            archs: image.arch.clone().or_else(|| defaults.arch.clone()).unwrap_or_else(|| vec![Arch::default()]),
            stores: image.store.clone().or_else(|| defaults.store.clone()).unwrap_or_else(|| vec![Store::default()]),
            instance_types: image.instance_type.clone().or_else(|| defaults.instance_type.clone()),
        }
    }

    /// The recipe of every variant. A lone one is called as the image is.
    pub fn expand(&self, common: &Recipe) -> Vec<Recipe> {
        let mut variants = Vec::new();
        for &arch in &self.archs {
            for &store in &self.stores {
                let mut label = common.name.clone();
                if self.archs.len() > 1 {
                    label += &format!(":{}", arch.name());
                }
                if self.stores.len() > 1 {
                    label += &format!(":{}", store.name());
                }
                let instance_type = self.instance_types.as_ref().and_then(|types| types.of(arch)).cloned();
                let from = common.from.of(arch);
                variants.push(Recipe { label, arch, store, instance_type, from, ..common.clone() });
            }
        }
        variants
    }
}

impl Checker<'_> {
    /// What makes variants of an image, and that each of them has a variant to be built on.
    pub fn variants(&mut self, name: &str, image: &Image, file: &File) {
        let own = |key: &'static str, is_own: bool| match is_own {
            true => vec![Key("images"), Key(name), Key(key)],
            false => vec![Key("defaults"), Key(key)],
        };
        let variants = Variants::of(image, &file.defaults);
        let archs: Vec<_> = variants.archs.iter().map(|arch| arch.name()).collect();
        let stores: Vec<_> = variants.stores.iter().map(|store| store.name()).collect();
        self.several(&own("arch", image.arch.is_some()), &archs);
        self.several(&own("store", image.store.is_some()), &stores);
        if matches!(variants.instance_types, Some(InstanceType::One(_))) && archs.len() > 1 {
            self.report(
                &own("instance_type", image.instance_type.is_some()),
                format!(
                    "no type has all processors of {name}: write one for each, as in {{x86_64: t3.small, arm64: \
                     t4g.small}}"
                ),
            );
        }
        if variants.stores.contains(&Store::InstanceStore) && variants.archs.contains(&Arch::Arm64) {
            self.report(
                &own("store", image.store.is_some()),
                format!("no instance of arm64 has its root on an instance store: give {name} the `arch` x86_64 alone"),
            );
        }
        let From::Image(base) = &image.from else { return };
        let Some(parent) = file.images.get(base) else { return };
        let parent = Variants::of(parent, &file.defaults);
        let from = own("from", true);
        for arch in variants.archs.iter().filter(|arch| !parent.archs.contains(arch)) {
            self.report(&from, format!("{base} is not made for {0}: add {0} to its `arch`", arch.name()));
        }
        for store in variants.stores.iter().filter(|store| !parent.stores.contains(store)) {
            self.report(&from, format!("{base} is not made on {0}: add {0} to its `store`", store.name()));
        }
    }

    /// A list of what makes variants: at least one, and each once.
    fn several(&mut self, at: &[Step<'_>], words: &[&str]) {
        if words.is_empty() {
            self.report(at, "an empty list: name at least one, or leave the key out");
        }
        for (index, word) in words.iter().enumerate() {
            if words[..index].contains(word) {
                self.report(&[at, &[Item(index)]].concat(), format!("`{word}` stands here twice"));
            }
        }
    }
}

impl Kilnfile {
    /// The variants that `NAME`, `NAME:arm64` or `NAME:arm64:ebs` stands for, in the order of the file.
    ///
    /// # Errors
    /// With the nearest name, when there is none.
    pub fn variants(&self, wanted: &str) -> Result<Vec<&Recipe>, Error> {
        let mut words = wanted.split(':');
        let name = words.next().unwrap_or_default();
        let all: Vec<&Recipe> = self.images().filter(|recipe| recipe.name == name).collect();
        if all.is_empty() {
            let known: IndexSet<&str> = self.images().map(|recipe| recipe.name.as_str()).collect();
            return Err(Error::unknown("image", name, &self.path, known.into_iter()));
        }
        let is = |recipe: &Recipe, word: &str| word == recipe.arch.name() || word == recipe.store.name();
        let fits = |recipe: &&Recipe| words.clone().all(|word| is(recipe, word));
        let fitting: Vec<&Recipe> = all.iter().copied().filter(fits).collect();
        if fitting.is_empty() {
            return Err(Error::unknown("variant", wanted, &self.path, all.iter().map(|recipe| recipe.label.as_str())));
        }
        Ok(fitting)
    }

    /// The variants that these names stand for and that can be made at a target.
    ///
    /// # Errors
    /// When there is no such image, or none of its variants can be made there.
    pub fn variants_at(&self, names: &[String], target: &Target) -> Result<Vec<&Recipe>, Error> {
        let mut chosen: Vec<&Recipe> = Vec::new();
        for name in names {
            let mut variants = self.variants(name)?;
            variants.retain(|recipe| recipe.store == target.store());
            if variants.is_empty() {
                return Err(Error::OtherStore {
                    name: name.clone(),
                    target: target.name.clone(),
                    store: target.store().name(),
                });
            }
            chosen.extend(variants);
        }
        Ok(chosen)
    }
}

impl Recipe {
    /// The label in the name of a folder. No name of an image has a plus.
    pub fn slug(&self) -> String {
        self.label.replace(':', "+")
    }
}
