//! What is offered at one moment, and where everything is.

// Backends of strangers send what is read here.
#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::string_slice
    )
)]

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Route;
use super::listing::{Listing, Place};
use super::sentences::Sentences;
use super::template::UriTemplate;
use super::uri_owners::{UriOwners, scheme};
use crate::backend::{Backend, Kind};
use crate::budget::{Account, Reservation};
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
    pub(super) owners: UriOwners,
    pub(super) unknown: Vec<Unknown>,
    pub(super) without_completions: HashSet<BackendName>,
    /// What it takes, where it is one session's.
    pub(super) reserved: Option<Reservation>,
}

/// About what an item takes beside its description: its place among those that are listed, and its route.
const ITEM_BYTES: usize = 256;
/// About what a template takes to be compared with URIs.
const MATCHER_BYTES: usize = 1024;

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

    /// About how many bytes it takes, without those that it shares with others.
    pub(super) fn weight(&self) -> usize {
        let items = Kind::ALL.map(|kind| self.listing(kind).items());
        let items: usize = items.into_iter().sum();
        // The beginnings of URIs are noted, too.
        let uris = self.resources.items().saturating_add(self.templates.items());
        let items = uris.saturating_mul(2).saturating_add(items).saturating_add(1);
        let matchers = self.matchers.len().saturating_mul(MATCHER_BYTES);
        items.saturating_mul(ITEM_BYTES).saturating_add(matchers)
    }

    /// Makes the pages of its lists anew for each who asks, and counts them in `account`.
    pub(super) fn count_pages(&mut self, account: &Account) {
        let lists = [
            &mut self.tools,
            &mut self.prompts,
            &mut self.resources,
            &mut self.templates,
        ];
        for list in lists {
            list.count_pages(account);
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

    /// Where the resource `uri` is: whoever lists it, otherwise whoever owns it by what else he lists, otherwise whoever has the template that
    /// says most about it, otherwise the only one that has others which begin like it. The rule stands in `docs/ARCHITECTURE.md`.
    ///
    /// # Errors
    /// When it is nowhere.
    pub fn resource(&self, uri: &str) -> Result<Route, Nowhere> {
        match self.resources.place(uri) {
            Place::At(route) => return Ok(route.clone()),
            Place::Taken => return Err(Nowhere::Unknown),
            Place::Nobodys => {}
        }
        match self.unlisted(uri) {
            Some(backend) => Ok(Route {
                backend: backend.clone(),
                name: uri.into(),
            }),
            None => Err(self.not_yet()),
        }
    }

    fn unlisted<'a>(&'a self, uri: &'a str) -> Option<&'a Backend> {
        // No URI holds control characters (RFC 3986, 2); parsers leave them out, and find another one.
        if uri.len() > MAX_URI_BYTES || uri.chars().any(char::is_control) {
            return None;
        }
        let passes = |terms: &Terms| terms.resources.passes_uri(uri) && !terms.resources.cannot_judge(uri);
        let owner = self.owners.owner(uri);
        if let Some(owner) = owner
            && passes(&owner.terms)
        {
            return Some(&owner.backend);
        }
        let fitting: Vec<_> = self.fitting(uri).collect();
        // What an owner's filter does not let pass, a template of his own may.
        let owned = owner.filter(|owner| {
            let mut backends = fitting.iter().map(|matcher| matcher.backend.name());
            backends.any(|name| name == owner.backend.name())
        });
        let templated = || {
            let has_scheme = |matcher: &&&Matcher| scheme(matcher.template.literal_beginning()).is_some();
            fitting.iter().find(has_scheme).map(|matcher| &matcher.backend)
        };
        let relative = || {
            let only = self.owners.only_relative(uri)?;
            passes(&only.terms).then_some(&only.backend)
        };
        // A template that does not say of which scheme its URIs are takes those of nobody else's.
        let any = || {
            let takes = |matcher: &&&Matcher| !self.owners.others_have(uri, &matcher.backend);
            fitting.iter().find(takes).map(|matcher| &matcher.backend)
        };
        let owned = owned.map(|owner| &owner.backend);
        owned.or_else(templated).or_else(relative).or_else(any)
    }

    /// The templates that fit `uri`, and may be used for it: those that say more about it first.
    fn fitting<'a>(&'a self, uri: &'a str) -> impl Iterator<Item = &'a Matcher> {
        // A backend may have a thousand templates that fit, and all have the same terms.
        let mut judged: HashMap<*const Terms, bool> = HashMap::new();
        let fitting = self
            .matchers
            .iter()
            .filter(|matcher| matcher.template.matches(uri));
        fitting.filter(move |matcher| {
            let rules = &matcher.terms.resources;
            *judged
                .entry(Arc::as_ptr(&matcher.terms))
                .or_insert_with(|| !rules.denies_uri(uri) && !rules.cannot_judge(uri))
        })
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
        let rules = rules(&unknown.terms);
        let renamed = advertised.strip_prefix(&*unknown.terms.prefix);
        let original = renamed
            .and_then(|renamed| rules.original(renamed))
            .ok_or(Nowhere::Unknown)?;
        // Nobody has said yet that there is such a name.
        if rules.resembles_refused(original) {
            return Err(Nowhere::Unknown);
        }
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
