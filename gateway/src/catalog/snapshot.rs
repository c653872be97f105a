//! One immutable version of the merged catalog, and the routing of names and URIs.

// This input comes from untrusted backends.
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

/// Maximum length of a URI that is matched with templates. A longer URI that no list contains is unknown.
const MAX_URI_BYTES: usize = 8 * 1024;

/// One immutable version of the merged catalog: the lists that clients are shown, and the route of each name.
#[derive(Debug)]
pub struct CatalogSnapshot {
    /// Merged tools of all backends.
    pub tools: MergedList,
    /// Merged prompts of all backends.
    pub prompts: MergedList,
    /// Merged resources of all backends.
    pub resources: MergedList,
    /// Merged resource templates of all backends.
    pub templates: MergedList,
    /// The backends' instructions for the model, joined to one text.
    pub instructions: Option<String>,
    /// The configuration by which the lists were merged.
    pub aggregation: Arc<Aggregation>,
    /// Names and URIs that several backends claim, one message each.
    pub conflicts: Diagnostics,
    /// Items that are not advertised for another reason than a conflict, and lists that could not be read, one message each.
    pub faults: Diagnostics,
    /// Items that are advertised but may not work with every client, or not as configured, one message each.
    pub warnings: Diagnostics,
    pub(super) matchers: Vec<TemplateRoute>,
    pub(super) owners: UriOwners,
    pub(super) undiscovered: Vec<UndiscoveredBackend>,
    pub(super) without_completions: HashSet<BackendName>,
    /// The reserved memory of a session's view; `None` for the shared catalog.
    pub(super) reserved: Option<Reservation>,
}

/// Estimated memory of an item beside its JSON: the list entry and the route.
const ITEM_BYTES: usize = 256;
/// Estimated memory of a parsed template.
const MATCHER_BYTES: usize = 1024;

/// A template, and the backend to which its URIs go.
#[derive(Debug)]
pub(super) struct TemplateRoute {
    pub(super) template: UriTemplate,
    pub(super) backend: Backend,
    pub(super) policy: Arc<ExposurePolicy>,
}

/// A backend that has not answered since the process started.
#[derive(Debug)]
pub(super) struct UndiscoveredBackend {
    pub(super) backend: Backend,
    pub(super) policy: Arc<ExposurePolicy>,
}

/// Why a name or URI has no route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotFound {
    /// No backend has it.
    Unknown,
    /// This backend has not answered since the process started, and may have it.
    Undiscovered(BackendName),
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

    /// Estimated bytes of the snapshot, without the JSON that it shares with others.
    pub(super) fn weight(&self) -> usize {
        let items = ListKind::ALL.map(|kind| self.listing(kind).items());
        let items: usize = items.into_iter().sum();
        // Each URI is also indexed by its prefixes.
        let uris = self.resources.items().saturating_add(self.templates.items());
        let items = uris.saturating_mul(2).saturating_add(items).saturating_add(1);
        let matchers = self.matchers.len().saturating_mul(MATCHER_BYTES);
        items.saturating_mul(ITEM_BYTES).saturating_add(matchers)
    }

    /// Encodes the pages of all lists per request, and reserves their bytes on `account`.
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

    /// The route of the tool with the advertised name `advertised`.
    ///
    /// # Errors
    /// [`NotFound`] if no backend has the tool.
    pub fn tool(&self, advertised: &str) -> Result<ItemRoute, NotFound> {
        self.route_by_name(&self.tools, |policy| &policy.tools, advertised)
    }

    /// The route of the prompt with the advertised name `advertised`.
    ///
    /// # Errors
    /// [`NotFound`] if no backend has the prompt.
    pub fn prompt(&self, advertised: &str) -> Result<ItemRoute, NotFound> {
        self.route_by_name(&self.prompts, |policy| &policy.prompts, advertised)
    }

    /// The route of the resource `uri`: a backend that lists it, otherwise the owner of its authority or directory, otherwise the best
    /// matching template, otherwise the only backend with URIs like it. See *Resources* in `docs/architecture/catalog.md` for the exact
    /// rule.
    ///
    /// # Errors
    /// [`NotFound`] if no backend has the resource.
    pub fn resource(&self, uri: &str) -> Result<ItemRoute, NotFound> {
        match self.resources.lookup(uri) {
            ItemLookup::Found(route) => return Ok(route.clone()),
            ItemLookup::Reserved => return Err(NotFound::Unknown),
            ItemLookup::Unclaimed => {}
        }
        match self.route_unlisted(uri) {
            Some(backend) => Ok(ItemRoute {
                backend: backend.clone(),
                name: uri.into(),
            }),
            None => Err(self.undiscovered_or_unknown()),
        }
    }

    fn route_unlisted<'a>(&'a self, uri: &'a str) -> Option<&'a Backend> {
        // A URI has no control characters (RFC 3986, 2). Parsers drop them, and would find another resource.
        if uri.len() > MAX_URI_BYTES || uri.chars().any(char::is_control) {
            return None;
        }
        let passes = |policy: &ExposurePolicy| {
            policy.resources.passes_uri(uri) && !policy.resources.is_undecidable(uri)
        };
        let owner = self.owners.owner(uri);
        if let Some(owner) = owner
            && passes(&owner.policy)
        {
            return Some(&owner.backend);
        }
        let matching: Vec<_> = self.matching_templates(uri).collect();
        // A template of the owner itself may allow what its filter does not list.
        let owned = owner.filter(|owner| {
            let mut backends = matching.iter().map(|matcher| matcher.backend.name());
            backends.any(|name| name == owner.backend.name())
        });
        let templated = || {
            let has_scheme =
                |matcher: &&&TemplateRoute| scheme(matcher.template.literal_beginning()).is_some();
            matching.iter().find(has_scheme).map(|matcher| &matcher.backend)
        };
        let sole_user = || {
            let only = self.owners.sole_user_of_scheme(uri)?;
            passes(&only.policy).then_some(&only.backend)
        };
        // A template that does not begin with a scheme takes no URI whose scheme another backend uses.
        let any = || {
            let takes =
                |matcher: &&&TemplateRoute| !self.owners.has_other_users_of_scheme(uri, &matcher.backend);
            matching.iter().find(takes).map(|matcher| &matcher.backend)
        };
        let owned = owned.map(|owner| &owner.backend);
        owned.or_else(templated).or_else(sole_user).or_else(any)
    }

    /// The templates that match `uri` and may be used for it, best match first.
    fn matching_templates<'a>(&'a self, uri: &'a str) -> impl Iterator<Item = &'a TemplateRoute> {
        // A backend may have a thousand matching templates, all under the same policy: check each policy once.
        let mut is_allowed: HashMap<*const ExposurePolicy, bool> = HashMap::new();
        let matching = self
            .matchers
            .iter()
            .filter(|matcher| matcher.template.matches(uri));
        matching.filter(move |matcher| {
            let rules = &matcher.policy.resources;
            *is_allowed
                .entry(Arc::as_ptr(&matcher.policy))
                .or_insert_with(|| !rules.denies_uri(uri) && !rules.is_undecidable(uri))
        })
    }

    /// The route of the resource template `uri`, or of the resource with that URI.
    ///
    /// # Errors
    /// [`NotFound`] if no backend has either.
    pub fn template(&self, uri: &str) -> Result<ItemRoute, NotFound> {
        match self.templates.lookup(uri) {
            ItemLookup::Found(route) => Ok(route.clone()),
            ItemLookup::Reserved => Err(NotFound::Unknown),
            ItemLookup::Unclaimed => self.resource(uri),
        }
    }

    /// Whether `backend` completes arguments. True until its first answer says otherwise.
    #[must_use]
    pub fn completes(&self, backend: &BackendName) -> bool {
        !self.without_completions.contains(backend)
    }

    /// Looks up a tool or a prompt. A name that no list contains may belong to a backend that has not answered yet. Its prefix then
    /// identifies the backend, so that a process that just started serves calls of sessions that already know the name.
    fn route_by_name(
        &self,
        listing: &MergedList,
        rules: fn(&ExposurePolicy) -> &ItemRules,
        advertised: &str,
    ) -> Result<ItemRoute, NotFound> {
        match listing.lookup(advertised) {
            ItemLookup::Found(route) => return Ok(route.clone()),
            ItemLookup::Reserved => return Err(NotFound::Unknown),
            ItemLookup::Unclaimed => {}
        }
        if self.aggregation.strategy != ConflictResolution::Prefix {
            return Err(self.undiscovered_or_unknown());
        }
        let candidates = self
            .undiscovered
            .iter()
            .filter(|undiscovered| advertised.starts_with(&undiscovered.policy.prefix));
        let Some(undiscovered) = candidates.max_by_key(|undiscovered| undiscovered.policy.prefix.len())
        else {
            return Err(NotFound::Unknown);
        };
        let rules = rules(&undiscovered.policy);
        let renamed = advertised.strip_prefix(&*undiscovered.policy.prefix);
        let original = renamed
            .and_then(|renamed| rules.original(renamed))
            .ok_or(NotFound::Unknown)?;
        // No list contains the name, so a filter must not be bypassed by a similar one.
        if rules.resembles_denied(original) {
            return Err(NotFound::Unknown);
        }
        Ok(ItemRoute {
            backend: undiscovered.backend.clone(),
            name: original.into(),
        })
    }

    fn undiscovered_or_unknown(&self) -> NotFound {
        self.undiscovered
            .first()
            .map_or(NotFound::Unknown, |undiscovered| {
                NotFound::Undiscovered(undiscovered.backend.name().clone())
            })
    }
}
