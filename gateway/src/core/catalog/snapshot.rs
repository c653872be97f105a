//! What is offered at one moment, and where everything is.

use std::collections::HashSet;
use std::sync::Arc;

use super::Route;
use super::listing::{Listing, Place};
use super::origin::Origins;
use super::sentences::Sentences;
use super::template::UriTemplate;
use crate::backend::{Backend, Kind};
use crate::config::{Aggregation, BackendName, Rules, Strategy, Terms};

/// The longest URI that is compared with templates; every longer one is unknown.
const MAX_URI_BYTES: usize = 8 * 1024;

/// What is offered at one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// The tools.
    pub tools: Listing,
    /// The prompts.
    pub prompts: Listing,
    /// The resources.
    pub resources: Listing,
    /// The resource templates.
    pub templates: Listing,
    /// What the backends tell models about using them, as one text.
    pub instructions: Option<String>,
    /// How all this was merged.
    pub aggregation: Arc<Aggregation>,
    /// Names that two claim, with who has them: a sentence each.
    pub conflicts: Sentences,
    /// What backends offer, or say that they do, and clients are not offered for other reasons: a sentence each.
    pub faults: Sentences,
    /// What works, but not for everybody or not as somebody meant it: a sentence each.
    pub warnings: Sentences,
    pub(super) matchers: Vec<Matcher>,
    pub(super) origins: Origins,
    pub(super) unknown: Vec<Unknown>,
    pub(super) without_completions: HashSet<BackendName>,
}

/// A template, and who has it.
#[derive(Debug)]
pub(super) struct Matcher {
    pub(super) template: UriTemplate,
    pub(super) backend: Backend,
    pub(super) terms: Arc<Terms>,
}

/// A backend that has not answered since the process started.
#[derive(Debug)]
pub(super) struct Unknown {
    pub(super) backend: Backend,
    pub(super) terms: Arc<Terms>,
}

/// Why something is nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nowhere {
    /// No backend has it.
    Unknown,
    /// This backend may have it: it has not answered since the process started.
    NotYet(BackendName),
}

impl Snapshot {
    /// The merged list of that kind.
    #[must_use]
    pub fn listing(&self, kind: Kind) -> &Listing {
        match kind {
            Kind::Tools => &self.tools,
            Kind::Prompts => &self.prompts,
            Kind::Resources => &self.resources,
            Kind::Templates => &self.templates,
        }
    }

    /// Where the tool is that clients call `advertised`.
    ///
    /// # Errors
    /// When it is nowhere.
    pub fn tool(&self, advertised: &str) -> Result<Route, Nowhere> {
        self.named(&self.tools, |terms| &terms.tools, advertised)
    }

    /// Where the prompt is that clients call `advertised`.
    ///
    /// # Errors
    /// When it is nowhere.
    pub fn prompt(&self, advertised: &str) -> Result<Route, Nowhere> {
        self.named(&self.prompts, |terms| &terms.prompts, advertised)
    }

    /// Where the resource `uri` is: whoever lists it, otherwise whoever has a template for it, otherwise the only one that has others
    /// which begin like it.
    ///
    /// # Errors
    /// When it is nowhere.
    pub fn resource(&self, uri: &str) -> Result<Route, Nowhere> {
        match self.resources.place(uri) {
            Place::At(route) => return Ok(route.clone()),
            Place::Taken => return Err(Nowhere::Unknown),
            Place::Nobodys => {}
        }
        let fits = |matcher: &&Matcher| {
            uri.len() <= MAX_URI_BYTES
                && matcher.template.matches(uri)
                && !matcher.terms.resources.denies_uri(uri)
        };
        let templated = self.matchers.iter().find(fits).map(|matcher| &matcher.backend);
        match templated.or_else(|| self.origins.owner(uri)) {
            Some(backend) => Ok(Route {
                backend: backend.clone(),
                name: uri.into(),
            }),
            None => Err(self.not_yet()),
        }
    }

    /// Where the resource template `uri` is, or the resource of that URI.
    ///
    /// # Errors
    /// When it is nowhere.
    pub fn template(&self, uri: &str) -> Result<Route, Nowhere> {
        match self.templates.place(uri) {
            Place::At(route) => Ok(route.clone()),
            Place::Taken => Err(Nowhere::Unknown),
            Place::Nobodys => self.resource(uri),
        }
    }

    /// Whether `backend` completes arguments, as far as known.
    #[must_use]
    pub fn completes(&self, backend: &BackendName) -> bool {
        !self.without_completions.contains(backend)
    }

    /// A name that nobody is known to have may belong to a backend that is not known yet. With prefixes it is clear whose it is, so
    /// that a cold process serves the calls of sessions that know the name already.
    fn named(
        &self,
        listing: &Listing,
        rules: fn(&Terms) -> &Rules,
        advertised: &str,
    ) -> Result<Route, Nowhere> {
        match listing.place(advertised) {
            Place::At(route) => return Ok(route.clone()),
            Place::Taken => return Err(Nowhere::Unknown),
            Place::Nobodys => {}
        }
        if self.aggregation.strategy != Strategy::Prefix {
            return Err(self.not_yet());
        }
        let candidates = self
            .unknown
            .iter()
            .filter(|unknown| advertised.starts_with(&unknown.terms.prefix));
        let Some(unknown) = candidates.max_by_key(|unknown| unknown.terms.prefix.len()) else {
            return Err(Nowhere::Unknown);
        };
        let renamed = &advertised[unknown.terms.prefix.len()..];
        let original = rules(&unknown.terms).original(renamed).ok_or(Nowhere::Unknown)?;
        Ok(Route {
            backend: unknown.backend.clone(),
            name: original.into(),
        })
    }

    fn not_yet(&self) -> Nowhere {
        self.unknown.first().map_or(Nowhere::Unknown, |unknown| {
            Nowhere::NotYet(unknown.backend.name().clone())
        })
    }
}
