"""What a pipeline would bring before it is built: costs of the stages, layouts over devices, and their simulation."""
