"""What can be proved of an image: signatures, attestations, its bill of materials. Built on `oci`; verbs call it."""
