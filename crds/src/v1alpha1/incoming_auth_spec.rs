//! `spec.incomingAuth` of a virtual server.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::secret_file::{self, TlsPaths};
use super::{CaBundleRef, SecretFile};
use crate::config::{IncomingAuth, OidcConfig, cel, rules};

/// Authentication of clients. Default: every client that can connect is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IncomingAuthSpec {
    /// The fields of the gateway's own configuration, except `oidc`.
    #[serde(flatten)]
    #[schemars(schema_with = "without_oidc")]
    pub settings: IncomingAuth,
    /// The issuer and the required claims of tokens. Required with `type: oidc`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oidc: Option<OidcSpec>,
}

/// Validation of bearer tokens. A token must have the claims `iss`, `sub`, `aud` and `exp`; `nbf` is checked if it is present.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OidcSpec {
    /// The fields of the gateway's own configuration, except those that name files.
    #[serde(flatten)]
    #[schemars(schema_with = "without_files")]
    pub settings: OidcConfig,
    /// PEM certificates of trusted authorities for the issuer, instead of those that the gateway's image trusts. Running pods
    /// take a changed value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle_ref: Option<CaBundleRef>,
}

/// The directory of the files for the issuer.
const DIRECTORY: &str = "oidc";

impl IncomingAuthSpec {
    /// The gateway's configuration.
    #[must_use]
    pub fn to_config(&self) -> IncomingAuth {
        IncomingAuth {
            kind: self.settings.kind,
            oidc: self.oidc.as_ref().map(|oidc| OidcConfig {
                ca_bundle_path: TlsPaths::new(DIRECTORY, oidc.ca_bundle_ref.as_ref(), None).ca_file,
                ..oidc.settings.clone()
            }),
        }
    }

    /// The files that the gateway's configuration names.
    #[must_use]
    pub fn secret_files(&self) -> Vec<SecretFile> {
        let bundle = self.oidc.as_ref().and_then(|oidc| oidc.ca_bundle_ref.as_ref());
        let file = bundle.and_then(|bundle| {
            secret_file::ca_bundle(DIRECTORY, bundle, "spec.incomingAuth.oidc.caBundleRef")
        });
        file.into_iter().collect()
    }
}

fn without_oidc(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = IncomingAuth::json_schema(generator);
    cel::remove_properties(&mut schema, &["oidc"]);
    schema
}

fn without_files(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = OidcConfig::json_schema(generator);
    cel::remove_properties(&mut schema, &["caBundlePath"]);
    for (field, description) in [
        (
            "audience",
            "The required audiences. The claim `aud` of a token must contain one of them.",
        ),
        (
            "resource",
            "The public URL of the MCP endpoint, for example `https://tools.example.com/mcp`. Clients read it from \
             `/.well-known/oauth-protected-resource`. Default: the URL of `spec.httpRoute`, or without one the first audience, which \
             must then be a URL.",
        ),
    ] {
        cel::describe_property(&mut schema, field, description);
    }
    // The route of a virtual server can give the resource, too, so the rule is one of its spec.
    cel::remove_rule(&mut schema, rules::NO_RESOURCE);
    schema
}
