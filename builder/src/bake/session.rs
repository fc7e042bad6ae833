//! What all bakes of one command share.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use super::plan::Given;
use super::site::Site;
use super::{Error, Request};
use crate::images::{Endpoint, Kilnfile, Target};
use crate::journal::Journal;
use crate::packer::version::{self, Packer};

/// Everything that is found out once, however many images are baked.
pub struct Session<'a> {
    /// The checked kiln.yaml.
    pub file: &'a Kilnfile,
    /// What is asked for.
    pub request: &'a Request,
    /// The target in kiln.yaml.
    pub target: &'a Target,
    /// Where it happens.
    pub site: Site,
    /// The packer on the path.
    pub packer: Packer,
    /// Whether it has been said what this packer lacks: once is enough, however many images there are.
    pub lacks_told: Cell<bool>,
    /// What has begun and not ended on this machine.
    pub journal: Journal,
}

impl<'a> Session<'a> {
    /// Opens the target and looks for packer.
    ///
    /// # Errors
    /// When the target cannot be reached as this user, packer is missing, or there is no journal.
    pub async fn open(file: &'a Kilnfile, request: &'a Request) -> Result<Session<'a>, Error> {
        let target = file.target(request.target.as_deref())?;
        if target.endpoint == Endpoint::Lab && !nix::unistd::geteuid().is_root() {
            return Err(Error::NeedsRoot);
        }
        let packer = version::probe(target.plugin_path.as_deref())?;
        let site = Site::open(target).await?;
        let journal = Journal::open()?;
        Ok(Session { file, request, target, site, packer, lacks_told: Cell::new(false), journal })
    }

    /// What every plan is made from.
    pub fn given(&self) -> Given<'_> {
        Given { file: self.file, request: self.request, site: &self.site, packer: &self.packer }
    }
}

/// The folder of the report as every later process finds it, wherever it runs.
///
/// # Errors
/// When the folder cannot be made.
pub fn absolute(folder: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(folder).map_err(|error| Error::file(folder.display(), error))
}
