//! Where a bake happens: a target of kiln.yaml, resolved to addresses.

use kiln_lab::Access;

use super::Error;
use crate::aws::Ec2;
use crate::images::{Endpoint, Target};
use crate::packer::template::Api;

/// A target that can be talked to.
pub struct Site {
    /// As a sentence names it.
    pub name: String,
    /// The region.
    pub region: String,
    /// The API as packer sees it.
    pub api: Api,
    /// The API as this program sees it.
    pub ec2: Ec2,
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
        let region = target.region.as_deref();
        let mut site = match &target.endpoint {
            Endpoint::Lab => return Ok(lab(target).await?),
            Endpoint::Aws => Site::remote(Api::Aws, Ec2::new(region, None, &[]).await),
            Endpoint::Url(url) => Site::remote(Api::Url(url.clone()), Ec2::new(region, Some(url), &[]).await),
        };
        site.name.clone_from(&target.name);
        site.region = site.ec2.region().ok_or_else(|| Error::NoRegion(target.name.clone()))?;
        Ok(site)
    }

    fn remote(api: Api, ec2: Ec2) -> Site {
        Site { name: String::new(), region: String::new(), api, ec2, enter: vec![], environment: vec![] }
    }
}

async fn lab(target: &Target) -> Result<Site, Error> {
    let name = std::env::var("KILN_LAB").unwrap_or_else(|_| "default".to_owned());
    let access = load(&name)?;
    let text = |text: &str| text.to_owned();
    let environment = vec![
        (text("AWS_ACCESS_KEY_ID"), text("lab")),
        (text("AWS_SECRET_ACCESS_KEY"), text("lab")),
        (text("AWS_REGION"), access.region.clone()),
    ];
    let ec2 = Ec2::new(Some(&access.region), Some(&access.host_endpoint), &environment).await;
    Ok(Site {
        name: target.name.clone(),
        region: access.region.clone(),
        api: Api::Lab(access.endpoint.clone()),
        ec2,
        enter: vec![text("nsenter"), format!("--net={}", access.netns.display()), text("--")],
        environment,
    })
}

fn load(name: &str) -> Result<Access, Error> {
    let path = format!("/run/kiln-lab/{name}/access.json");
    let text =
        std::fs::read(&path).map_err(|_| Error::Lab(format!("the lab `{name}` is not up; start it: kiln lab up")))?;
    serde_json::from_slice(&text).map_err(|error| Error::Lab(format!("{path}: {error}")))
}
