//! Writing that an image is in a stage: parameters first, then tags.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::line::Logical;
use super::rules::{self, ROLLED_BACK, STAGE_TAG, Stage};
use super::{Places, by_id, who};
use crate::aws::{self, Copies, Parameters, Version};
use crate::bake::Error;

/// The tags on a promoted image that say who, when and why.
const PROMOTED: [&str; 3] = ["promoted_by", "promoted_at", "promoted_why"];
/// Those on an image that was rolled back.
const RETIRED: [&str; 3] = ["retired_by", "retired_at", "retired_why"];

/// What is done, by whom and why.
pub(super) struct Act {
    record: String,
    values: [String; 3],
}

impl Act {
    /// Done now. `word` is what the record begins with.
    pub fn new(word: &str, reason: Option<&str>) -> Act {
        let at = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let (who, why) = (who(), reason.unwrap_or_default().to_owned());
        let colon = if why.is_empty() { "" } else { ": " };
        Act { record: format!("{word} by {who} at {at}{colon}{why}"), values: [who, at, why] }
    }

    /// Done before and not completed: its record stays, and the tags are to say what it says.
    pub fn again(version: Option<&Version>) -> Act {
        let record = version.map(|version| version.record.clone()).unwrap_or_default();
        let word = if record.starts_with(ROLLED_BACK) { ROLLED_BACK } else { rules::PROMOTED };
        let told = record.strip_prefix(word).and_then(|rest| rest.strip_prefix(" by ")?.split_once(" at "));
        let Some((who, rest)) = told else { return Act { record, ..Act::new(word, None) } };
        let (at, why) = rest.split_once(": ").unwrap_or((rest, ""));
        Act { values: [who, at, why].map(str::to_owned), record }
    }

    /// Whether it goes back.
    pub fn is_rollback(&self) -> bool {
        self.record.starts_with(ROLLED_BACK)
    }

    fn tags(&self, keys: [&str; 3]) -> impl Iterator<Item = (String, String)> {
        let pairs = keys.map(str::to_owned).into_iter().zip(self.values.clone());
        pairs.filter(|(_, value)| !value.is_empty())
    }
}

/// What a promotion or a rollback came to.
#[derive(Debug)]
pub struct Moved {
    /// The name of the image.
    pub name: String,
    /// The stage that it is in.
    pub stage: Stage,
    /// Whether all was so before.
    pub already: bool,
    /// Each region, the one in which images are baked first.
    pub regions: Vec<Placed>,
    /// Other images whose stage is another now.
    pub others: Vec<(String, Stage)>,
}

/// One region of it.
#[derive(Debug)]
pub struct Placed {
    /// The region.
    pub region: String,
    /// The id of the image there.
    pub image: String,
    /// Why it is not complete there.
    pub error: Option<String>,
}

impl Moved {
    /// Whether every region is complete.
    pub fn is_complete(&self) -> bool {
        self.regions.iter().all(|placed| placed.error.is_none())
    }

    /// For a person.
    pub fn text(&self) -> String {
        let already = if self.already { " already" } else { "" };
        let mut text = format!("{} is in {}{already}\n", self.name, self.stage.name());
        for Placed { region, image, error } in &self.regions {
            let error = error.as_ref().map_or_else(String::new, |why| format!("  failed: {why}"));
            text += &format!("  {region}  {image}{error}\n");
        }
        for (name, stage) in &self.others {
            text += &format!("{name} is {}\n", stage.name());
        }
        if !self.is_complete() {
            text += "not every region is complete; run the same again\n";
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let regions: Vec<_> = self
            .regions
            .iter()
            .map(|placed| json!({"region": placed.region, "image": placed.image, "error": placed.error}))
            .collect();
        let others: Vec<_> =
            self.others.iter().map(|(name, stage)| json!({"name": name, "stage": stage.name()})).collect();
        json!({
            "name": self.name, "stage": self.stage.name(), "already": self.already, "complete": self.is_complete(),
            "regions": regions, "others": others,
        })
    }
}

/// Puts an image into a stage, in all regions or not at all but for what a region refuses later.
pub(super) async fn enact<P: Parameters>(
    places: &Places<impl Copies, P>,
    line: &str,
    images: &[Logical],
    chosen: &Logical,
    to: Stage,
    act: &Act,
) -> Result<Moved, Error> {
    let lacking: Vec<_> = places
        .images
        .iter()
        .map(|(region, _)| region.as_str())
        .filter(|region| !chosen.places.contains_key(*region))
        .collect();
    if !lacking.is_empty() {
        let (name, id) = (&chosen.name, chosen.places.values().next().map_or("", |image| &image.id));
        let id = chosen.places.get(&places.home).map_or(id, |image| &image.id);
        return Err(Error::Refused(format!("{name} is not complete in {}: kiln copy {id}", lacking.join(", "))));
    }
    let parameter = rules::parameter(line, to);
    let place = |region: &str| chosen.places.get(region).map(|image| image.id.clone()).unwrap_or_default();
    let point = async |region: &str, api: &P| -> Result<bool, aws::Error> {
        let wanted = Version { image: place(region), record: act.record.clone() };
        let there = api.history(&parameter).await?.last().is_some_and(|version| version.image == wanted.image);
        if !there {
            api.set(&parameter, &wanted).await?;
        }
        Ok(!there)
    };
    // With this it has happened.
    let (first, others) = places.parameters.split_at(1);
    let mut pointed = vec![Ok(point(&places.home, &first[0].1).await?)];
    pointed.extend(join_all(others.iter().map(async |(region, api)| point(region, api).await)).await);

    let history = first[0].1.history(&parameter).await?;
    let before = before(&history, images, &places.home);
    let changes = rules::restage(images, &places.home, &chosen.name, before, to);
    let tagged =
        join_all(places.images.iter().zip(&places.parameters).map(async |((region, api), (_, parameters))| {
            // Tags come last: as long as they differ, the next run knows that something is to be done.
            if act.is_rollback() {
                leave_canary(parameters, line, region, &changes, &place(region), act).await?;
            }
            for (image, stage) in &changes {
                let Some(at) = image.places.get(region) else { continue };
                api.label(&[&at.id], &labels(image, *stage, &places.home, image.name == chosen.name, act)).await?;
            }
            Ok::<_, aws::Error>(())
        }))
        .await;

    let already = changes.is_empty() && pointed.iter().all(|pointed| matches!(pointed, Ok(false)));
    let regions = places.images.iter().zip(pointed).zip(tagged).map(|(((region, _), pointed), tagged)| Placed {
        region: region.clone(),
        image: place(region),
        error: pointed.err().or(tagged.err()).map(|error| error.to_string()),
    });
    let others = changes.iter().filter(|(image, _)| image.name != chosen.name);
    Ok(Moved {
        name: chosen.name.clone(),
        stage: to,
        already,
        regions: regions.collect(),
        others: others.map(|(image, stage)| (image.name.clone(), *stage)).collect(),
    })
}

/// After a rollback no canary is to take what was rolled back: where it has that, it gets what production has.
async fn leave_canary(
    parameters: &impl Parameters,
    line: &str,
    region: &str,
    changes: &[(&Logical, Stage)],
    image: &str,
    act: &Act,
) -> Result<(), aws::Error> {
    let canary = rules::parameter(line, Stage::Canary);
    let Some(Version { image: tried, .. }) = parameters.history(&canary).await?.pop() else { return Ok(()) };
    let retired = changes.iter().filter(|(_, stage)| *stage == Stage::Retired);
    let mut ids = retired.filter_map(|(image, _)| image.places.get(region)).map(|at| &at.id);
    if ids.any(|id| *id == tried) {
        parameters.set(&canary, &Version { image: image.to_owned(), record: act.record.clone() }).await?;
    }
    Ok(())
}

/// Whether parameters and tags of production say the same everywhere.
pub(super) async fn is_enacted(
    places: &Places<impl Copies, impl Parameters>,
    line: &str,
    images: &[Logical],
    now: &Logical,
    history: &[Version],
) -> Result<bool, aws::Error> {
    let parameter = rules::parameter(line, Stage::Production);
    for (region, api) in &places.parameters {
        let has = api.history(&parameter).await?.pop().map(|version| version.image);
        if has.as_ref() != now.places.get(region).map(|image| &image.id) {
            return Ok(false);
        }
    }
    let before = before(history, images, &places.home);
    Ok(rules::restage(images, &places.home, &now.name, before, Stage::Production).is_empty())
}

/// The name of the image that a rollback would go to.
fn before<'a>(history: &[Version], images: &'a [Logical], home: &str) -> Option<&'a str> {
    let stack = rules::stack(history);
    let id = stack.len().checked_sub(2).and_then(|position| stack.get(position))?;
    by_id(images, home, id).map(|image| image.name.as_str())
}

/// The tags of an image that comes to a stage.
fn labels(image: &Logical, stage: Stage, home: &str, chosen: bool, act: &Act) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([(STAGE_TAG.to_owned(), stage.name().to_owned())]);
    let keys = match stage {
        _ if chosen && act.record.starts_with(rules::PROMOTED) => PROMOTED,
        Stage::Retired if act.is_rollback() => RETIRED,
        _ => return labels,
    };
    // A run that was cut short has said it where images are baked: all regions are to say the same.
    let said = image.tag(home, STAGE_TAG) == stage.name() && !image.tag(home, keys[1]).is_empty();
    match said {
        true => labels.extend(
            keys.map(|key| (key.to_owned(), image.tag(home, key).to_owned()))
                .into_iter()
                .filter(|(_, value)| !value.is_empty()),
        ),
        false => labels.extend(act.tags(keys)),
    }
    labels
}
