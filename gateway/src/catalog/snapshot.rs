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

use super::ItemRoute;
use super::uri_owners::{UriOwners, scheme};
use crate::backend::{Backend, ListKind};
use crate::budget::{Account, Reservation};
use crate::catalog::diagnostics::Diagnostics;
use crate::catalog::merged_list::{ItemLookup, MergedList};
use crate::catalog::uri_template::UriTemplate;
use crate::config::{Aggregation, BackendName, ConflictResolution, ExposurePolicy, ItemRules};

/// The longest URI that is compared with templates; every longer one is unknown.
const MAX_URI_BYTES: usize = 8 * 1024;

/// What is offered at one moment.
#[derive(Debug)]
pub struct CatalogSnapshot {
    /// The tools.
    pub tools: MergedList,
    /// The prompts.
    pub prompts: MergedList,
    /// The resources.
    pub resources: MergedList,
    /// The resource templates.
    pub templates: MergedList,
    /// What the backends tell models about using them, as one text.
    pub instructions: Option<String>,
    /// How all this was merged.
    pub aggregation: Arc<Aggregation>,
    /// Names that two claim, with who has them: a sentence each.
    pub conflicts: Diagnostics,
    /// What backends offer, or say that they do, and clients are not offered for other reasons: a sentence each.
    pub faults: Diagnostics,
    /// What works, but not for everybody or not as somebody meant it: a sentence each.
    pub warnings: Diagnostics,
    pub(super) matchers: Vec<TemplateRoute>,
    pub(super) owners: UriOwners,
    pub(super) unknown: Vec<UnseenBackend>,
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
pub(super) struct TemplateRoute {
    pub(super) template: UriTemplate,
    pub(super) backend: Backend,
    pub(super) terms: Arc<ExposurePolicy>,
}

/// A backend that has not answered since the process started.
#[derive(Debug)]
pub(super) struct UnseenBackend {
    pub(super) backend: Backend,
    pub(super) terms: Arc<ExposurePolicy>,
}

/// Why something is nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotFound {
    /// No backend has it.
    Unknown,
    /// This backend may have it: it has not answered since the process started.
    NotYet(BackendName),
}

impl CatalogSnapshot {
    /// The merged list of that kind.
    #[must_use]
    pub fn listing(&self, kind: ListKind) -> &MergedList {
        match kind {
            ListKind::Tools => &self.tools,
            ListKind::Prompts => &self.prompts,
            ListKind::Resources => &self.resources,
            ListKind::Templates => &self.templates,
        }
    }

    /// About how many bytes it takes, without those that it shares with others.
    pub(super) fn weight(&self) -> usize {
        let items = ListKind::ALL.map(|kind| self.listing(kind).items());
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
    pub fn tool(&self, advertised: &str) -> Result<ItemRoute, NotFound> {
        self.named(&self.tools, |terms| &terms.tools, advertised)
    }

    /// Where the prompt is that clients call `advertised`.
    ///
    /// # Errors
    /// When it is nowhere.
    pub fn prompt(&self, advertised: &str) -> Result<ItemRoute, NotFound> {
        self.named(&self.prompts, |terms| &terms.prompts, advertised)
    }

    /// Where the resource `uri` is: whoever lists it, otherwise whoever owns it by what else he lists, otherwise whoever has the template that
    /// says most about it, otherwise the only one that has others which begin like it. The rule stands in `docs/ARCHITECTURE.md`.
    ///
    /// # Errors
    /// When it is nowhere.
    pub fn resource(&self, uri: &str) -> Result<ItemRoute, NotFound> {
        match self.resources.place(uri) {
            ItemLookup::At(route) => return Ok(route.clone()),
            ItemLookup::Taken => return Err(NotFound::Unknown),
            ItemLookup::Nobodys => {}
        }
        match self.unlisted(uri) {
            Some(backend) => Ok(ItemRoute {
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
        let passes =
            |terms: &ExposurePolicy| terms.resources.passes_uri(uri) && !terms.resources.cannot_judge(uri);
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
            let has_scheme =
                |matcher: &&&TemplateRoute| scheme(matcher.template.literal_beginning()).is_some();
            fitting.iter().find(has_scheme).map(|matcher| &matcher.backend)
        };
        let relative = || {
            let only = self.owners.only_relative(uri)?;
            passes(&only.terms).then_some(&only.backend)
        };
        // A template that does not say of which scheme its URIs are takes those of nobody else's.
        let any = || {
            let takes = |matcher: &&&TemplateRoute| !self.owners.others_have(uri, &matcher.backend);
            fitting.iter().find(takes).map(|matcher| &matcher.backend)
        };
        let owned = owned.map(|owner| &owner.backend);
        owned.or_else(templated).or_else(relative).or_else(any)
    }

    /// The templates that fit `uri`, and may be used for it: those that say more about it first.
    fn fitting<'a>(&'a self, uri: &'a str) -> impl Iterator<Item = &'a TemplateRoute> {
        // A backend may have a thousand templates that fit, and all have the same terms.
        let mut judged: HashMap<*const ExposurePolicy, bool> = HashMap::new();
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
    pub fn template(&self, uri: &str) -> Result<ItemRoute, NotFound> {
        match self.templates.place(uri) {
            ItemLookup::At(route) => Ok(route.clone()),
            ItemLookup::Taken => Err(NotFound::Unknown),
            ItemLookup::Nobodys => self.resource(uri),
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
        listing: &MergedList,
        rules: fn(&ExposurePolicy) -> &ItemRules,
        advertised: &str,
    ) -> Result<ItemRoute, NotFound> {
        match listing.place(advertised) {
            ItemLookup::At(route) => return Ok(route.clone()),
            ItemLookup::Taken => return Err(NotFound::Unknown),
            ItemLookup::Nobodys => {}
        }
        if self.aggregation.strategy != ConflictResolution::Prefix {
            return Err(self.not_yet());
        }
        let candidates = self
            .unknown
            .iter()
            .filter(|unknown| advertised.starts_with(&unknown.terms.prefix));
        let Some(unknown) = candidates.max_by_key(|unknown| unknown.terms.prefix.len()) else {
            return Err(NotFound::Unknown);
        };
        let rules = rules(&unknown.terms);
        let renamed = advertised.strip_prefix(&*unknown.terms.prefix);
        let original = renamed
            .and_then(|renamed| rules.original(renamed))
            .ok_or(NotFound::Unknown)?;
        // Nobody has said yet that there is such a name.
        if rules.resembles_refused(original) {
            return Err(NotFound::Unknown);
        }
        Ok(ItemRoute {
            backend: unknown.backend.clone(),
            name: original.into(),
        })
    }

    fn not_yet(&self) -> NotFound {
        self.unknown.first().map_or(NotFound::Unknown, |unknown| {
            NotFound::NotYet(unknown.backend.name().clone())
        })
    }
}
