"""What every verifier and every drafter must do, the toys of other tests too."""
