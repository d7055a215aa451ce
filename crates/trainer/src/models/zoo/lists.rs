//! Networks that read lists of features, such as bags of words, and ask one yes-or-no question for each of very many labels.

use super::super::build_error::BuildError;
use super::super::builder::Builder;

/// Linear layers `fc1`, `fc2`, … with ReLU and dropout between them: hidden layers of these features, and one output a label.
pub(super) fn lists(builder: &mut Builder, hidden: &[usize]) -> Result<(), BuildError> {
    let mut x = builder.input();
    for (i, &features) in hidden.iter().enumerate() {
        let name = format!("fc{}", i + 1);
        let features = builder.spec.scaled(features);
        x = builder.linear(&name, features, true, x)?;
        x = builder.dropout(name, x)?;
    }
    let labels = builder.spec.classes;
    builder.linear(format!("fc{}", hidden.len() + 1), labels, false, x)?;
    Ok(())
}
