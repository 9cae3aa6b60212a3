//! Shuts the applications out of the mirror, and notes whom a promotion has to let in: those who
//! may connect to the source.

use super::error::{Doing, Error};
use crate::backend::control::Control;
use crate::catalog::door::{Door, close, plan};

const WHO_MAY_CONNECT: &str = "
SELECT r.rolname::text, bool_or(a.is_grantable)
FROM pg_database d CROSS JOIN LATERAL aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
LEFT JOIN pg_roles r ON r.oid = a.grantee
WHERE d.datname = current_database() AND a.privilege_type = 'CONNECT'
    AND (a.grantee = 0 OR r.rolname IS NOT NULL)
GROUP BY r.rolname ORDER BY r.rolname";

/// Closes the target's door. Returns who walks through it.
pub(super) async fn shut(source: &Control, target: &mut Control) -> Result<Vec<String>, Error> {
    let rows = source.query(WHO_MAY_CONNECT, &[]).await.doing("read who may connect to the source")?;
    let mut door = Door::default();
    for row in &rows {
        match row.get::<_, Option<String>>(0) {
            None => door.public_could_connect = true,
            Some(role) => {
                if row.get(1) {
                    door.grantable.push(role.clone());
                }
                door.grantees.push(role);
            }
        }
    }
    let closed = close(target).await?;
    plan(target, &door).await?;
    let mut warnings = Vec::new();
    if !closed.walk_through.is_empty() {
        warnings.push(format!(
            "superusers can log in to the mirror before a promotion: {}",
            super::survey::some(&closed.walk_through)
        ));
    }
    if closed.inside > 0 {
        warnings.push(format!("{} sessions of other roles are in the target database", closed.inside));
    }
    Ok(warnings)
}
