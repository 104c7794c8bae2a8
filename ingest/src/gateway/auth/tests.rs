//! Roles, tenants, headers and the form of keys.
