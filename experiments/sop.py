"""Stanford Online Products: unseen products, a few photographs of each. The paper has no figure."""

from experiments import command

if __name__ == "__main__":
    command.main("sop")
