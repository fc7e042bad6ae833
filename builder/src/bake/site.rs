//! Where a bake happens: a target of kiln.yaml, resolved to addresses.

use kiln_lab::Access;

use super::Error;
use crate::aws::{Door, Ec2};
use crate::images::{Bundle, Distribution, Endpoint, Target};
use crate::packer::template::Api;

/// A target that can be talked to.
pub struct Site {
    /// As a sentence names it.
    pub name: String,
    /// The region.
    pub region: String,
    /// The lab, where it is one.
    pub lab: Option<String>,
    /// How images on instance stores are bundled; none where images are made on network volumes.
    pub bundle: Option<Bundle>,
    /// The API as packer sees it.
    pub api: Api,
    /// The API as this program sees it.
    pub ec2: Ec2,
    /// The way to every other API and region.
    pub door: Door,
    /// What becomes of an image that passed.
    pub distribution: Distribution,
    /// Words to put before a program that must see what the machines see.
    pub enter: Vec<String>,
    /// Variables such a program needs.
    pub environment: Vec<(String, String)>,
}

impl Site {
    /// Finds the addresses. `default_region` holds where the target names none.
    ///
    /// # Errors
    /// When the lab is not up, and when there is no region.
    pub async fn open(target: &Target) -> Result<Site, Error> {
        let mut site = match &target.endpoint {
            Endpoint::Lab => lab(target).await?,
            Endpoint::Aws => Site::remote(target, Api::Aws, Door::default()).await?,
            Endpoint::Url(url) => Site::remote(target, Api::Url(url.clone()), Door::new(Some(url), &[])).await?,
        };
        site.bundle = target.bundle.as_ref().map(absolute).transpose()?;
        Ok(site)
    }

    /// API and region in one word, by which the journal tells places apart.
    pub fn place(&self) -> String {
        match (&self.api, &self.lab) {
            // Inside its network every lab has the same address.
            (_, Some(lab)) => format!("lab {lab} {}", self.region),
            (Api::Aws, None) => format!("aws {}", self.region),
            (Api::Url(url) | Api::Lab(url), None) => format!("{url} {}", self.region),
        }
    }

    /// Every region that has the images of this site; the one in which they are baked first.
    pub fn regions(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.region).chain(&self.distribution.copies).map(String::as_str)
    }

    async fn remote(target: &Target, api: Api, door: Door) -> Result<Site, Error> {
        let ec2 = door.ec2(target.region.as_deref()).await;
        let region = ec2.region().ok_or_else(|| Error::NoRegion(target.name.clone()))?;
        Ok(Site {
            name: target.name.clone(),
            region,
            lab: None,
            api,
            ec2,
            bundle: None,
            door,
            distribution: target.distribution.clone(),
            enter: vec![],
            environment: vec![],
        })
    }

    /// Target and region, by which kiln.lock tells places apart: people read it.
    pub fn title(&self) -> String {
        format!("{}/{}", self.name, self.region)
    }
}

/// With paths that hold wherever packer runs.
fn absolute(bundle: &Bundle) -> Result<Bundle, Error> {
    let [x509_cert, x509_key] = [&bundle.x509_cert, &bundle.x509_key].map(|path| super::session::absolute(path));
    Ok(Bundle { x509_cert: x509_cert?, x509_key: x509_key?, ..bundle.clone() })
}

/// The lab of this machine that is meant, which has to be up.
///
/// # Errors
/// When it is not.
pub fn lab_access() -> Result<Access, Error> {
    let name = std::env::var("KILN_LAB").unwrap_or_else(|_| "default".to_owned());
    match Access::load(&name) {
        Ok(Some(access)) => Ok(access),
        Ok(None) => Err(Error::Lab(format!("the lab `{name}` is not up; start it: kiln lab up"))),
        Err(error) => Err(Error::Lab(error.to_string())),
    }
}

async fn lab(target: &Target) -> Result<Site, Error> {
    let access = lab_access()?;
    // Copies can be anywhere; what is baked needs machines, and they are in one region.
    if let Some(region) = target.region.as_ref().filter(|region| **region != access.region)
        && !target.distribution.copies.is_empty()
    {
        return Err(Error::Lab(format!(
            "the machines of the lab `{}` are in {}, and target {} bakes in {region}: name {} first under `regions`",
            access.name, access.region, target.name, access.region
        )));
    }
    let door = Door::new(Some(&access.host_endpoint), &access.host_environment());
    Ok(Site {
        name: target.name.clone(),
        region: access.region.clone(),
        lab: Some(access.name.clone()),
        bundle: None,
        api: Api::Lab(access.endpoint.clone()),
        ec2: door.ec2(Some(&access.region)).await,
        door,
        distribution: target.distribution.clone(),
        enter: access.enter(),
        environment: access.environment(),
    })
}
