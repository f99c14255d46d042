"""What the methods are compared with, one file per problem."""
